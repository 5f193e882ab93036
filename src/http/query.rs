//! Query parameters.

use percent_encoding::percent_decode_str;
use poem::Request;

use crate::{app::Error, model::Page};

/// A parameter given twice could mean either value, and two parties could read it differently: it is refused.
pub(super) fn refuse_repeated(request: &Request) -> Result<(), Error> {
    let mut names = names(request);
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Error::Invalid("a query parameter comes more than once".to_owned()));
    }
    Ok(())
}

/// The page that a list is asked for. A parameter that is neither of the page nor one of `filters` is refused: a misspelt
/// filter would show more than was asked for.
pub(super) fn page(
    request: &Request,
    limit: u32,
    after: Option<String>,
    filters: &[&str],
) -> Result<Page, Error> {
    refuse_repeated(request)?;
    let known =
        |name: &String| ["limit", "after"].contains(&name.as_str()) || filters.contains(&name.as_str());
    if !names(request).iter().all(known) {
        return Err(Error::Invalid("there is a query parameter that this list does not have".to_owned()));
    }
    Ok(Page { limit: i64::from(limit), after: after.filter(|after| !after.is_empty()) })
}

/// How many items a page has unless it is said.
pub(super) fn usual_limit() -> u32 {
    100
}

fn names(request: &Request) -> Vec<String> {
    let query = request.uri().query().unwrap_or_default();
    let names = query.split('&').filter_map(|pair| pair.split('=').next()).filter(|name| !name.is_empty());
    names.map(|name| percent_decode_str(name).decode_utf8_lossy().into_owned()).collect()
}
