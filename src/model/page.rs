//! Lists in pieces: keyset pagination, so that a page costs the same however deep it is.

/// Which piece of a list.
#[derive(Clone, Debug)]
pub struct Page {
    /// At most so many items.
    pub limit: i64,
    /// Only items after this one, by the key that the list is sorted by.
    pub after: Option<String>,
}

impl Page {
    /// The most items that one answer over HTTP holds.
    pub const MAX: i64 = 1000;

    /// The whole list.
    pub const fn all() -> Self {
        Self { limit: i64::MAX, after: None }
    }
}

/// A piece of a list.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Listed<T> {
    /// The items.
    pub items: Vec<T>,
    /// What to give as `after` for the next piece; `None` when there is none.
    pub next: Option<String>,
}

impl<T> Listed<T> {
    /// From what was found when one item more than asked for was looked for; `key` names an item.
    pub fn of(mut items: Vec<T>, page: &Page, key: impl Fn(&T) -> String) -> Self {
        let more = i64::try_from(items.len()).is_ok_and(|found| found > page.limit);
        if more {
            items.pop();
        }
        let next = items.last().filter(|_| more).map(key);
        Self { items, next }
    }
}

impl Page {
    /// The same page with one item more, to see whether there is another page.
    #[must_use]
    pub fn and_one(&self) -> Self {
        Self { limit: self.limit.saturating_add(1), after: self.after.clone() }
    }
}
