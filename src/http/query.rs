//! Query parameters.

use poem::Request;

use crate::app::Error;

/// A parameter given twice could mean either value, and two parties could read it differently: it is refused.
pub(super) fn refuse_repeated(request: &Request) -> Result<(), Error> {
    let query = request.uri().query().unwrap_or_default();
    let mut names: Vec<_> = query.split('&').filter_map(|pair| pair.split('=').next()).collect();
    names.retain(|name| !name.is_empty());
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Error::Invalid("a query parameter comes more than once".to_owned()));
    }
    Ok(())
}
