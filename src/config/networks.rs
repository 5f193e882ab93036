//! Lists of networks, as an operator types them.

use crate::model::{Network, Networks};

/// Proxies that are trusted: `none`, or a list of networks.
pub(super) fn proxies(text: &str) -> Result<Vec<Network>, String> {
    if matches!(text.trim(), "none" | "") {
        return Ok(Vec::new());
    }
    let proxies = list(text)?;
    if proxies.iter().any(Network::is_everything) {
        return Err("trusts everybody, so that anybody could say to be anywhere".to_owned());
    }
    Ok(proxies)
}

/// From where something is allowed: `anywhere`, or a list of networks.
pub(super) fn allowed(text: &str) -> Result<Networks, String> {
    match text.trim() {
        "anywhere" => Ok(Networks::ANYWHERE),
        "" => Err("is a list of nothing, which would shut everybody out".to_owned()),
        text => Networks::within(list(text)?).map_err(|_| "has more networks than it can have".to_owned()),
    }
}

/// Networks into which something is allowed that is not allowed into others: `none`, or a list.
pub(super) fn exceptions(text: &str) -> Result<Vec<Network>, String> {
    if matches!(text.trim(), "none" | "") { Ok(Vec::new()) } else { list(text) }
}

fn list(text: &str) -> Result<Vec<Network>, String> {
    let network = |(i, entry): (usize, &str)| {
        let entry = entry.trim();
        entry.parse().map_err(|error| format!("has {}, which is {error}", named(i, entry)))
    };
    text.split(',').enumerate().map(network).collect()
}

/// An entry, in its own words only if it is like an address: people paste secrets into the wrong line.
fn named(i: usize, entry: &str) -> String {
    let is_like_an_address = |byte: u8| byte.is_ascii_hexdigit() || b"./:%[]".contains(&byte);
    if !entry.is_empty()
        && entry.len() <= 49
        && entry.bytes().all(is_like_an_address)
        && entry.contains(['.', ':'])
    {
        format!("{entry} in it")
    } else {
        format!("an entry (number {})", i + 1)
    }
}
