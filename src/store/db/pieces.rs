//! Statements for many rows: each statement is a way to the database and back, and the one writer waits meanwhile.

use std::iter;

use super::statement::{Statement, sql};

/// The same statement for 1, 2, 4, … 256 rows. Whatever is left takes the smallest into which it fits; places that nothing is
/// bound to are null, so the statement has to pass over rows whose `column1` is null.
pub(in crate::store) struct Pieces(pub(in crate::store) [(usize, &'static str); 9]);

/// [`Pieces`] of a statement in which `$row` stands once for each row, between `$head` and `$tail`. The places are `?` and not
/// numbered, because SQLite looks a number up among all of them; PostgreSQL gets numbers.
macro_rules! pieces {
    ($head:expr, $row:expr, $tail:expr) => {
        $crate::store::db::Pieces([
            $crate::store::db::pieces!(of 1, $head, $row, $tail),
            $crate::store::db::pieces!(of 2, $head, $row, $tail),
            $crate::store::db::pieces!(of 4, $head, $row, $tail),
            $crate::store::db::pieces!(of 8, $head, $row, $tail),
            $crate::store::db::pieces!(of 16, $head, $row, $tail),
            $crate::store::db::pieces!(of 32, $head, $row, $tail),
            $crate::store::db::pieces!(of 64, $head, $row, $tail),
            $crate::store::db::pieces!(of 128, $head, $row, $tail),
            $crate::store::db::pieces!(of 256, $head, $row, $tail),
        ])
    };
    (of $rows:tt, $head:expr, $row:expr, $tail:expr) => {
        ($rows, concat!($head, $crate::store::db::pieces!(@ $rows $row), $tail))
    };
    (@ 1 $row:expr) => { $row };
    (@ 2 $row:expr) => { concat!($row, ", ", $row) };
    (@ 4 $row:expr) => { $crate::store::db::pieces!(@ 2 $crate::store::db::pieces!(@ 2 $row)) };
    (@ 8 $row:expr) => { $crate::store::db::pieces!(@ 2 $crate::store::db::pieces!(@ 4 $row)) };
    (@ 16 $row:expr) => { $crate::store::db::pieces!(@ 2 $crate::store::db::pieces!(@ 8 $row)) };
    (@ 32 $row:expr) => { $crate::store::db::pieces!(@ 2 $crate::store::db::pieces!(@ 16 $row)) };
    (@ 64 $row:expr) => { $crate::store::db::pieces!(@ 2 $crate::store::db::pieces!(@ 32 $row)) };
    (@ 128 $row:expr) => { $crate::store::db::pieces!(@ 2 $crate::store::db::pieces!(@ 64 $row)) };
    (@ 256 $row:expr) => { $crate::store::db::pieces!(@ 2 $crate::store::db::pieces!(@ 128 $row)) };
}
pub(in crate::store) use pieces;

impl Pieces {
    /// The statements for `rows`, each with how many of them are in it.
    pub(in crate::store) fn of<T>(
        &'static self,
        rows: Vec<T>,
        bind: fn(Statement, T) -> Statement,
    ) -> impl Iterator<Item = (u64, Statement)> {
        let Self(pieces) = self;
        let mut rest = rows.into_iter();
        iter::from_fn(move || {
            let left = rest.len();
            let fits = pieces.iter().find(|(rows, _)| *rows >= left);
            let (rows, text) = *fits.unwrap_or(&pieces[pieces.len() - 1]);
            let statement = || {
                let statement = rest.by_ref().take(rows).fold(sql(text), bind);
                statement.leave_empty(rows - left.min(rows), left.min(rows))
            };
            (left > 0).then(statement).map(|statement| (left.min(rows) as u64, statement))
        })
    }
}
