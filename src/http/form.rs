//! Forms, as the OAuth endpoints take them (RFC 6749 appendix B), and the client's authentication beside them (§2.3).
//!
//! Read by hand: poem-openapi's form accepts a body of any size, takes the last of repeated parameters, and answers a wrong
//! content type in plain text.

use base64::{Engine, engine::general_purpose::STANDARD};
use percent_encoding::percent_decode_str;
use poem::{
    Request, RequestBody,
    http::{HeaderMap, HeaderValue, header},
};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaMediaType, MetaRequest, Registry},
    types::Type,
};
use zeroize::Zeroizing;

use super::{credential::app, edge::origin, error::oauth_problem};
use crate::{
    app::{Error, client::ClientCredentials},
    model::Action,
    secret::Secret,
};

/// The media type of forms.
pub(super) const FORM: &str = "application/x-www-form-urlencoded";
/// A longer form is refused: no parameter of ours needs more.
const MAX_BODY: usize = 16 * 1024;

/// The parameters of a form that have a value.
#[derive(Debug, Default)]
pub(super) struct Fields(Vec<(&'static str, Secret)>);

impl Fields {
    /// The value of a parameter.
    pub(super) fn secret(&mut self, name: &str) -> Option<Secret> {
        let at = self.0.iter().position(|(field, _)| *field == name)?;
        Some(self.0.swap_remove(at).1)
    }

    /// The value of a parameter that is not secret.
    #[expect(clippy::disallowed_methods, reason = "the parameters asked for this way are not secret")]
    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        self.secret(name).map(|value| value.expose().to_owned())
    }

    /// The client, as the header or the form names it: one way per request (RFC 6749 §2.3).
    fn client(&mut self, headers: &HeaderMap) -> Result<ClientCredentials, Error> {
        let in_form = ClientCredentials { id: self.text("client_id"), secret: self.secret("client_secret") };
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let Some(value) = values.next() else { return Ok(in_form) };
        if values.next().is_some() {
            return Err(invalid("the header Authorization comes more than once"));
        }
        // Not a client's way to authenticate, but a person's, at the endpoints that take it.
        if value.as_bytes().get(..7).is_some_and(|start| start.eq_ignore_ascii_case(b"bearer ")) {
            // Which of the two would count is not for us to guess.
            return if in_form.secret.is_some() { Err(Error::InvalidClient) } else { Ok(in_form) };
        }
        let (id, secret) = basic(value).ok_or(Error::InvalidClient)?;
        // Swagger UI sends an empty pair when it has no client.
        if id.is_empty() && secret.is_empty() {
            return Ok(in_form);
        }
        if in_form.secret.is_some() {
            return Err(invalid("the client authenticates both by header and in the body"));
        }
        if in_form.id.is_some_and(|named| named != id) {
            return Err(invalid("the header and the body name different clients"));
        }
        Ok(ClientCredentials { id: Some(id), secret: Some(secret).filter(|secret| !secret.is_empty()) })
    }
}

/// A request that comes as a form.
pub(super) trait FormRequest: Sized + Send {
    /// What the specification says of it.
    type Schema: Type;
    /// Its parameters.
    const PARAMETERS: &'static [&'static str];

    /// What is asked for: a form that cannot be read is written down as a refusal of that.
    fn action(request: &Request) -> Action;

    /// Whether it may be asked for now: decided before anything is parsed.
    fn within_limit(_: &Request) -> impl Future<Output = Result<(), Error>> + Send {
        async { Ok(()) }
    }

    /// From what was read.
    fn of(fields: Fields, client: ClientCredentials) -> Self;
}

/// The form of a request, read.
pub(super) struct Form<T>(pub(super) T);

impl<'a, T: FormRequest> ApiExtractor<'a> for Form<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::Schema::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        let content = vec![MetaMediaType { content_type: FORM, schema: T::Schema::schema_ref() }];
        Some(MetaRequest { description: None, content, required: true })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        T::within_limit(request).await.map_err(oauth_problem)?;
        match read_request(request, body).await {
            Ok(read) => Ok(Self(read)),
            Err(error) => {
                let refused = app(request).refuse(T::action(request), &origin(request), error).await;
                Err(oauth_problem(refused))
            }
        }
    }
}

async fn read_request<T: FormRequest>(request: &Request, body: &mut RequestBody) -> Result<T, Error> {
    let mut fields = read(request, body, T::PARAMETERS).await?;
    let client = fields.client(request.headers())?;
    Ok(T::of(fields, client))
}

/// Reads the form of a request, as far as `parameters` go: others are ignored (RFC 6749 §3.2).
async fn read(
    request: &Request,
    body: &mut RequestBody,
    parameters: &[&'static str],
) -> Result<Fields, Error> {
    if !has_media_type(request.headers(), FORM) {
        return Err(invalid("the body must be a form: Content-Type application/x-www-form-urlencoded"));
    }
    let query = request.uri().query().unwrap_or_default();
    if query.split('&').any(|pair| parameters.contains(&pair.split('=').next().unwrap_or_default())) {
        return Err(invalid("parameters belong in the body, not in the address"));
    }
    let body = body.take().map_err(|_| invalid("the body is missing"))?;
    let bytes =
        body.into_bytes_limit(MAX_BODY).await.map_err(|_| invalid("the body is longer than 16 KiB"))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| invalid("the body is not a form in UTF-8"))?;
    parse(text, parameters)
}

/// Whether the body says once that it is of this type, whatever the parameters.
pub(super) fn has_media_type(headers: &HeaderMap, wanted: &str) -> bool {
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let media_type = values.next().and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    values.next().is_none() && essence.eq_ignore_ascii_case(wanted)
}

/// RFC 6749 §3.2: an empty parameter is absent, and none may come twice.
fn parse(text: &str, parameters: &[&'static str]) -> Result<Fields, Error> {
    let mut fields = Fields::default();
    let mut seen = Vec::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decode(name)?, decode(value)?);
        let Some(parameter) = parameters.iter().copied().find(|parameter| *parameter == *name) else {
            continue;
        };
        if seen.contains(&parameter) {
            return Err(Error::Invalid(format!("the parameter {parameter} comes more than once")));
        }
        seen.push(parameter);
        if value.chars().any(char::is_control) {
            return Err(Error::Invalid(format!("the parameter {parameter} has control characters")));
        }
        if !value.is_empty() {
            fields.0.push((parameter, Secret::new(value.as_str())));
        }
    }
    Ok(fields)
}

/// One component of a form: `+` is a space, `%xx` is a byte, the whole is UTF-8.
fn decode(component: &str) -> Result<Zeroizing<String>, Error> {
    let malformed = || invalid("the form is not well-formed");
    let bytes = component.as_bytes();
    for (i, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%') {
        let digits = bytes.get(i + 1..i + 3).ok_or_else(malformed)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(malformed());
        }
    }
    let spaced = Zeroizing::new(component.replace('+', " "));
    let decoded = percent_decode_str(&spaced).decode_utf8().map_err(|_| malformed())?;
    Ok(Zeroizing::new(decoded.into_owned()))
}

/// RFC 6749 §2.3.1: `Authorization: Basic` with the form-encoded id and secret.
fn basic(value: &HeaderValue) -> Option<(String, Secret)> {
    let value = value.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    let decoded = STANDARD.decode(encoded.trim()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let decoded = Zeroizing::new(String::from_utf8(decoded).ok()?);
    let (id, secret) = decoded.split_once(':')?;
    Some((decode(id).ok()?.to_string(), Secret::new(decode(secret).ok()?.as_str())))
}

fn invalid(detail: &str) -> Error {
    Error::Invalid(detail.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_decoded_strictly() {
        let parameters = ["grant_type", "username", "password", "scope"];
        let mut form =
            parse("grant_type=password&username=a%40b&scope=&unknown=%31&password=p%2B+q", &parameters)
                .unwrap();
        assert_eq!((form.text("username").as_deref(), form.text("scope")), (Some("a@b"), None));
        assert_eq!(form.text("password").as_deref(), Some("p+ q"));
        let bad =
            ["scope=a&scope=b", "scope=&scope=", "username=%", "username=%4", "username=%zz", "username=%ff"];
        for bad in bad.into_iter().chain(["username=a%00", "scope=a%0d%0ab", "password=a%00b"]) {
            assert!(parse(bad, &parameters).is_err(), "{bad}");
        }
    }
}
