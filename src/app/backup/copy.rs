//! Copying every table: out of a database into a file, or into an empty database out of either.

use std::io::{Read, Write};

use super::file::{Reader, Sum, Tally, Writer, damaged, line_of};
use crate::{
    app::Error,
    store::{
        Connection, Store, StoreError,
        dump::{self, Load, Record, TABLES, Table},
    },
};

/// How many rows are read from a file at a time.
const PAGE: usize = 1_000;

/// What takes its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Rows are copied.
    Copying,
    /// What was written is read again.
    Comparing,
    /// The book is verified.
    Verifying,
}

/// Who is told how much of how much is done.
pub type Progress<'p> = &'p mut dyn FnMut(Step, u64, u64);

/// How many rows there are in all tables.
pub(super) async fn count(db: &mut Connection) -> Result<u64, Error> {
    let mut rows = 0;
    for table in TABLES {
        rows += table.count(db).await?;
    }
    Ok(rows)
}

/// Writes every table to a file.
pub(super) async fn save(
    db: &mut Connection,
    to: &mut Writer<impl Write>,
    total: u64,
    progress: Progress<'_>,
) -> Result<(), Error> {
    let mut done = 0;
    for table in TABLES {
        to.begin(table.name, &columns(table))?;
        let sum = each(db, table, |rows, lines| {
            done += rows;
            progress(Step::Copying, done, total);
            to.line(lines)
        });
        let sum = sum.await?;
        to.end(&sum)?;
    }
    Ok(())
}

pub(super) fn columns(table: &Table) -> Vec<&'static str> {
    table.columns().collect()
}

/// Reads a table, a few rows at a time.
async fn each(
    db: &mut Connection,
    table: &'static Table,
    mut take: impl FnMut(u64, &[u8]) -> Result<(), Error>,
) -> Result<Sum, Error> {
    let (mut tally, mut last) = (Tally::default(), None);
    loop {
        let rows = table.rows(db, last.as_ref()).await?;
        let mut lines = Vec::new();
        for row in &rows {
            let line = line_of(row)?;
            tally.add(&line);
            lines.extend(line);
        }
        take(rows.len() as u64, &lines)?;
        last = rows.into_iter().next_back();
        if last.is_none() {
            return Ok(tally.sum());
        }
    }
}

/// Where rows come from.
pub(super) enum Source<'s, R: Read> {
    Database(&'s mut Connection),
    File(&'s mut Reader<R>),
}

impl<R: Read> Source<'_, R> {
    fn begin(&mut self, table: &Table) -> Result<(), Error> {
        match self {
            Self::Database(_) => Ok(()),
            Self::File(file) => file.begin(table.name, &columns(table)),
        }
    }

    /// The next rows of a table.
    async fn rows(
        &mut self,
        table: &'static Table,
        last: Option<&Record>,
        tally: &mut Tally,
    ) -> Result<Vec<Record>, Error> {
        match self {
            Self::Database(db) => {
                let rows = table.rows(db, last).await?;
                rows.iter().try_for_each(|row| line_of(row).map(|line| tally.add(&line)))?;
                Ok(rows)
            }
            Self::File(file) => {
                let mut rows = Vec::with_capacity(PAGE);
                while rows.len() < PAGE
                    && let Some(line) = file.row(tally)?
                {
                    rows.push(table.record(line).ok_or_else(damaged)?);
                }
                Ok(rows)
            }
        }
    }
}

/// Fills an empty database with `total` rows, and reads them again: nothing on the way may have changed any.
pub(super) async fn fill<R: Read>(
    store: &Store,
    source: &mut Source<'_, R>,
    total: u64,
    progress: Progress<'_>,
) -> Result<Load, Error> {
    let mut load = Load::begin(store).await.map_err(|error| match error {
        StoreError::Exists => Error::Refused(
            "the database is not empty: a first start may have been broken off there; make a new database for this"
                .to_owned(),
        ),
        other => other.into(),
    })?;
    let (mut sums, mut done) = (Vec::with_capacity(TABLES.len()), 0);
    for table in TABLES {
        source.begin(table)?;
        let (mut tally, mut last) = (Tally::default(), None);
        loop {
            let rows = source.rows(table, last.as_ref(), &mut tally).await?;
            let Some(newest) = rows.last() else { break };
            last = Some(newest.clone());
            done += rows.len() as u64;
            load = load.insert(table, rows).await.map_err(|error| unfit(table, error))?;
            progress(Step::Copying, done, total);
        }
        sums.push(tally.sum());
    }
    let mut done = 0;
    for (table, sum) in TABLES.iter().zip(&sums) {
        let found = each(load.transaction(), table, |rows, _| {
            done += rows;
            progress(Step::Comparing, done, total);
            Ok(())
        });
        if found.await? != *sum {
            return Err(Error::Refused(format!(
                "{} does not hold what was written into it; is somebody else at work in the database?",
                table.name
            )));
        }
    }
    Ok(load)
}

/// Rows that the database does not take are none that a desk has written.
fn unfit(table: &'static dump::Table, error: StoreError) -> Error {
    match error {
        StoreError::Exists | StoreError::InUse | StoreError::Inconsistent { .. } => {
            Error::Refused(format!("the rows of {} do not fit together: {error}", table.name))
        }
        other => other.into(),
    }
}
