//! What the operations of `/me` and `/admin` answer: their successes, and the statuses of their failures.

use poem::{Request, RequestBody, Result, http::StatusCode};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ApiResponse, ExtractParamOptions,
    registry::{MetaParamIn, MetaSchemaRef},
    types::Type,
};

use super::{error::Answers, payload::JsonBody};

#[derive(ApiResponse)]
pub(super) enum Created<T: Type> {
    /// It is made.
    #[oai(status = 201)]
    Made(
        JsonBody<T>,
        /// Where it is.
        #[oai(header = "Location")]
        String,
    ),
}

#[derive(ApiResponse)]
pub(super) enum Versioned<T: Type> {
    /// It, as it is now.
    #[oai(status = 200)]
    Found(
        JsonBody<T>,
        /// Its version: send it back as `If-Match` with a change.
        #[oai(header = "ETag")]
        String,
    ),
}

#[derive(ApiResponse)]
pub(super) enum Gone {
    /// It is done, and there is nothing to say about it.
    #[oai(status = 204)]
    Done,
}

/// The entity tag of a version.
pub(super) fn etag(version: i64) -> String {
    format!("\"{version}\"")
}

/// `If-Match` (RFC 9110 §13.1.1), which a change must carry (RFC 6585 §3): the versions it names; `None` is any.
pub(super) struct IfMatch(pub(super) Option<Vec<i64>>);

impl<'a> ApiExtractor<'a> for IfMatch {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];
    const PARAM_IS_REQUIRED: bool = true;
    type ParamType = String;
    type ParamRawType = String;

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Header)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        Some(String::schema_ref())
    }

    async fn from_request(
        request: &'a Request,
        _: &mut RequestBody,
        _: ExtractParamOptions<String>,
    ) -> Result<Self> {
        let values: Vec<_> =
            request.headers().get_all("if-match").iter().map(|value| value.to_str().unwrap_or("")).collect();
        if values.is_empty() {
            return Err(poem::Error::from_status(StatusCode::PRECONDITION_REQUIRED));
        }
        Ok(Self(versions(&values.join(","))))
    }
}

/// The versions of ours among the entity tags. A weak one is never the same (§8.8.3.2).
fn versions(if_match: &str) -> Option<Vec<i64>> {
    if if_match.trim() == "*" {
        return None;
    }
    let tags = if_match.split(',').map(str::trim);
    let version = |tag: &str| tag.strip_prefix('"')?.strip_suffix('"')?.parse().ok();
    Some(tags.filter_map(version).collect())
}

macro_rules! answers {
    ($($(#[$doc:meta])* $name:ident = [$($status:literal),*];)*) => {$(
        $(#[$doc])*
        pub(super) struct $name;
        impl Answers for $name {
            const STATUSES: &'static [u16] = &[$($status),*];
        }
    )*};
}

answers! {
    /// Who am I?
    Knowing = [400, 401, 403, 500, 503];
    /// A list.
    Listing = [400, 401, 403, 500, 503];
    /// One thing, a list of what belongs to it, or its deletion where nothing can stand against it.
    Reading = [400, 401, 403, 404, 500, 503];
    /// A deletion that something can stand against.
    Removing = [400, 401, 403, 404, 409, 500, 503];
    /// A body that makes something which nothing can stand against but the body.
    MakingOwn = [400, 401, 403, 413, 415, 500, 503];
    /// The same, of something that must exist.
    Putting = [400, 401, 403, 404, 409, 413, 415, 500, 503];
    /// A body that makes something with a name of its own.
    Making = [400, 401, 403, 409, 413, 415, 500, 503];
    /// The same, which names other things.
    MakingWith = [400, 401, 403, 404, 409, 413, 415, 500, 503];
    /// A conditional change.
    Changing = [400, 401, 403, 404, 409, 412, 413, 415, 428, 500, 503];
    /// A body with a password to try.
    Proving = [400, 401, 403, 409, 413, 415, 429, 500, 503];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_strong_entity_tags_match() {
        assert_eq!(versions(" * "), None);
        assert_eq!(versions("\"3\""), Some(vec![3]));
        assert_eq!(versions("\"x\", \"4\",W/\"5\", \"6\""), Some(vec![4, 6]));
        for none in ["", "3", "\"3", "W/\"3\"", "\"*\""] {
            assert_eq!(versions(none), Some(vec![]), "{none}");
        }
    }
}
