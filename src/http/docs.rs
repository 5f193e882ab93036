//! `/docs` (Swagger UI), `/redoc`, `/openapi.json`, `/openapi.yaml`: all from the binary, nothing from elsewhere.
//!
//! Scripts and styles are files with an entity tag, so that browsers keep them and a strict content security policy holds.
//! The large ones lie in the program compressed, as they are sent; whatever else a client may want instead is made when
//! the first one asks for it, off the threads that answer, and kept. Until then a page costs neither time nor memory.
//! Compression is safe here because no page has a secret in it, or anything that was sent to us (BREACH).

use std::io::{self, Read as _, Write as _};

use flate2::{Compression, bufread::GzDecoder, write::GzEncoder};
use hyper::body::Bytes;
use poem::{
    Endpoint, Request, Response, Result, Route,
    error::InternalServerError,
    get,
    http::{HeaderMap, StatusCode, header},
};
use tokio::{sync::OnceCell, task::spawn_blocking};

use super::llm_keys::is_current;

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";

const DOCS_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                           connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
/// Redoc writes its own style elements and searches in a worker made from a blob.
const REDOC_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                            connect-src 'self'; worker-src blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

static PAGES: [Page; 10] = [
    Page::new("/openapi.json", "application/json", Source::Made(super::spec_json)),
    Page::new("/openapi.yaml", "application/yaml", Source::Made(super::spec_yaml)),
    Page::new("/docs", HTML, Source::Text(include_str!("docs/docs.html"))).under(DOCS_POLICY),
    Page::new("/docs/swagger-ui.css", STYLE, Source::Packed(include_bytes!("docs/swagger-ui.css.gz"))),
    Page::new("/docs/swagger-ui.js", SCRIPT, Source::Packed(include_bytes!("docs/swagger-ui.js.gz"))),
    Page::new("/docs/start.css", STYLE, Source::Text(include_str!("docs/docs.css"))),
    Page::new("/docs/start.js", SCRIPT, Source::Text(include_str!("docs/docs.js"))),
    Page::new("/redoc", HTML, Source::Text(include_str!("docs/redoc.html"))).under(REDOC_POLICY),
    Page::new("/redoc/redoc.js", SCRIPT, Source::Packed(include_bytes!("docs/redoc.js.gz"))),
    Page::new("/redoc/start.js", SCRIPT, Source::Text(include_str!("docs/redoc.js"))),
];

/// The paths of this module.
pub(super) fn paths() -> impl Iterator<Item = &'static str> {
    PAGES.iter().map(|page| page.path)
}

/// The routes of the documentation.
pub(super) fn routes() -> Route {
    PAGES.iter().fold(Route::new(), |routes, page| routes.at(page.path, get(page)))
}

/// What is served at a path, the same for as long as the program runs.
struct Page {
    path: &'static str,
    media_type: &'static str,
    policy: Option<&'static str>,
    source: Source,
    plain: OnceCell<Representation>,
    packed: OnceCell<Representation>,
}

/// Where a page comes from.
#[derive(Clone, Copy)]
enum Source {
    /// A file in the program, compressed.
    Packed(&'static [u8]),
    /// A file in the program, too short to be worth it.
    Text(&'static str),
    /// What the program knows of itself.
    Made(fn() -> String),
}

/// A page in one of its codings.
struct Representation {
    body: Bytes,
    etag: String,
}

impl Page {
    const fn new(path: &'static str, media_type: &'static str, source: Source) -> Self {
        Self {
            path,
            media_type,
            policy: None,
            source,
            plain: OnceCell::const_new(),
            packed: OnceCell::const_new(),
        }
    }

    /// A document, which says what it may load.
    const fn under(mut self, policy: &'static str) -> Self {
        self.policy = Some(policy);
        self
    }

    /// The page as it is sent, made if nobody has asked for it yet.
    async fn representation(&self, packed: bool) -> io::Result<&Representation> {
        let source = self.source;
        let make = move || if packed { source.packed() } else { source.plain() };
        let place = if packed { &self.packed } else { &self.plain };
        place
            .get_or_try_init(|| async {
                let body = spawn_blocking(make).await.map_err(io::Error::other)??;
                let etag = format!("\"{}\"", crate::app::fingerprint(&body));
                Ok(Representation { body, etag })
            })
            .await
    }
}

impl Source {
    fn plain(self) -> io::Result<Bytes> {
        match self {
            Self::Text(text) => Ok(Bytes::from_static(text.as_bytes())),
            Self::Made(make) => Ok(Bytes::from(make())),
            Self::Packed(packed) => {
                let mut plain = Vec::new();
                GzDecoder::new(packed).read_to_end(&mut plain)?;
                Ok(Bytes::from(plain))
            }
        }
    }

    fn packed(self) -> io::Result<Bytes> {
        if let Self::Packed(packed) = self {
            return Ok(Bytes::from_static(packed));
        }
        let mut packed = GzEncoder::new(Vec::new(), Compression::best());
        packed.write_all(&self.plain()?)?;
        Ok(Bytes::from(packed.finish()?))
    }
}

impl Endpoint for Page {
    type Output = Response;

    async fn call(&self, request: Request) -> Result<Response> {
        let packed = prefers_gzip(request.headers());
        let Representation { body, etag } = self.representation(packed).await.map_err(InternalServerError)?;
        let mut response = Response::builder()
            .header(header::ETAG, etag)
            .header(header::VARY, "Accept-Encoding")
            .header(header::CACHE_CONTROL, "no-cache");
        if let Some(policy) = self.policy {
            response = response.header(header::CONTENT_SECURITY_POLICY, policy);
        }
        let known = request.header(header::IF_NONE_MATCH);
        if is_current(known, etag) {
            return Ok(response.status(StatusCode::NOT_MODIFIED).finish());
        }
        if packed {
            response = response.header(header::CONTENT_ENCODING, "gzip");
        }
        // The length for HEAD, of which only the header is sent.
        response =
            response.header(header::CONTENT_TYPE, self.media_type).header(header::CONTENT_LENGTH, body.len());
        Ok(response.body(body.clone()))
    }
}

/// Whether the client takes gzip, and likes it no less than the plain text (RFC 9110 §12.5.3).
fn prefers_gzip(headers: &HeaderMap) -> bool {
    let (mut gzip, mut plain, mut others) = (None, None, None);
    let fields = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    for field in fields.flat_map(|value| value.split(',')) {
        let (coding, parameter) = field.split_once(';').unwrap_or((field, "q=1"));
        let weight = parameter.trim().strip_prefix(['q', 'Q']).and_then(|rest| rest.strip_prefix('='));
        let weight: f32 = weight.and_then(|weight| weight.parse().ok()).unwrap_or_default();
        match coding.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => gzip = Some(weight),
            "identity" => plain = Some(weight),
            "*" => others = Some(weight),
            _ => {}
        }
    }
    // What is not named has the weight of `*`; without one, plain text is the last choice and gzip is none.
    let gzip = gzip.or(others).unwrap_or_default();
    gzip > 0.0 && gzip >= plain.or(others).unwrap_or_default()
}
