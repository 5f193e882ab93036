//! Requests to a desk and what comes back, with the waiting and the failures that are the same for all of them.
//!
//! A key or a token must not go astray: in the clear only to this machine, never after a redirect, and to nobody whose
//! certificate does not prove that it is the desk.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{
    Certificate, RequestBuilder, Response, StatusCode, Url,
    header::{self, HeaderMap, HeaderName},
    redirect,
};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::error::{Error, Kind};
use crate::secret::Secret;

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);
/// How long to wait in all because the desk says when to come back.
const WAITING: Duration = Duration::from_secs(5);
/// How often to ask in all, even if it says that it is soon.
const TRIES: u32 = 10;
/// A desk that says "at once" is given this long all the same.
const LEAST_PAUSE: Duration = Duration::from_millis(100);
/// More than any answer has that makes sense.
const MAX_BODY: usize = 4 << 20;

/// How to speak to a desk.
#[derive(Clone, Debug, Default)]
pub(super) struct Manner<'a> {
    pub(super) ca_file: Option<&'a Path>,
    pub(super) insecure: bool,
    /// Whatever certificate it shows will do: of a desk on this machine, to which nothing is said.
    pub(super) own: bool,
}

/// One desk.
#[derive(Debug)]
pub(super) struct Wire {
    http: reqwest::Client,
    url: String,
    ca_file: Option<PathBuf>,
}

/// What it answered.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    headers: HeaderMap,
    body: Zeroizing<Vec<u8>>,
}

/// RFC 6749 §5.2 and RFC 9457: what is said of an error, in either form.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Said {
    error: String,
    error_description: String,
    detail: String,
}

/// The URL of a desk without the slash at its end; or why it is none.
pub(super) fn checked_url(text: &str, insecure: bool) -> Result<Url, Error> {
    let wrong = |what: &str| Error::failed(format_args!("the desk's URL {what}"));
    if !text.starts_with("https://") && !text.starts_with("http://") {
        return Err(wrong("does not begin with https:// or http://"));
    }
    let url =
        Url::parse(text.trim_end_matches('/')).map_err(|error| wrong(&format!("cannot be used: {error}")))?;
    if url.username() != "" || url.password().is_some() {
        return Err(wrong("has a user or a password in it; leave them out"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("has a query or a fragment"));
    }
    if url.scheme() == "http" && !insecure && !is_loopback(&url) {
        return Err(wrong(
            "is http:// and names another machine: keys would cross the network readable. Use https://; where the \
             network itself is safe, log in with --insecure",
        ));
    }
    Ok(url)
}

pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

impl Wire {
    pub(super) fn new(url: &str, manner: &Manner<'_>) -> Result<Self, Error> {
        let url = checked_url(url, manner.insecure)?;
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("keydesk/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .timeout(PATIENCE)
            .connect_timeout(CONNECT_PATIENCE);
        if manner.own || is_loopback(&url) {
            builder = builder.no_proxy();
        }
        if manner.own {
            builder = builder.tls_certs_only([]).tls_danger_accept_invalid_certs(true);
        } else if url.scheme() == "http" {
            // The system's certificates take longer to read than everything else here.
            builder = builder.tls_certs_only([]);
        } else if let Some(path) = manner.ca_file {
            builder = builder.tls_certs_only(certificates(path)?);
        }
        let http = builder.build().map_err(|error| {
            Error::failed(format_args!(
                "no connections can be made (are the system's CA certificates installed?): {}",
                told(&error)
            ))
        })?;
        let ca_file = manner.ca_file.map(Path::to_owned);
        Ok(Self { http, url: url.as_str().trim_end_matches('/').to_owned(), ca_file })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// `GET path` as whoever has the token.
    #[expect(clippy::disallowed_methods, reason = "the token is shown to the desk")]
    pub(super) async fn get(&self, path: &str, token: &Secret, etag: Option<&str>) -> Result<Answer, Error> {
        self.send(|| {
            let request = self.http.get(format!("{}{path}", self.url)).bearer_auth(token.expose());
            etag.into_iter().fold(request, |request, etag| request.header(header::IF_NONE_MATCH, etag))
        })
        .await
    }

    /// `PUT path` with JSON as whoever has the token.
    #[expect(clippy::disallowed_methods, reason = "the token is shown to the desk")]
    pub(super) async fn put(&self, path: &str, token: &Secret, body: &[u8]) -> Result<Answer, Error> {
        self.send(|| {
            let request = self.http.put(format!("{}{path}", self.url)).bearer_auth(token.expose());
            request.header(header::CONTENT_TYPE, "application/json").body(body.to_vec())
        })
        .await
    }

    /// `POST path` with a form.
    pub(super) async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Result<Answer, Error> {
        self.post_within(PATIENCE, path, fields).await
    }

    /// The same, if the answer has to come sooner.
    pub(super) async fn post_within(
        &self,
        patience: Duration,
        path: &str,
        fields: &[(&str, &str)],
    ) -> Result<Answer, Error> {
        let mut body = String::with_capacity(1024);
        for (name, value) in fields {
            let separator = if body.is_empty() { "" } else { "&" };
            body.extend([separator, name, "="]);
            body.extend(utf8_percent_encode(value, NON_ALPHANUMERIC));
        }
        self.send(|| {
            let request = self.http.post(format!("{}{path}", self.url)).timeout(patience);
            request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(body.clone())
        })
        .await
    }

    /// `GET path` without a credential and without waiting: any status is an answer.
    pub(super) async fn probe(&self, path: &str) -> Result<Answer, Error> {
        let request = self.http.get(format!("{}{path}", self.url));
        let mut response = request.send().await.map_err(|error| self.unreachable(&error))?;
        self.read(&mut response).await
    }

    /// Sends it, and again when the desk says so and it is soon.
    async fn send(&self, request: impl Fn() -> RequestBuilder) -> Result<Answer, Error> {
        let (mut left, mut tries) = (WAITING, 1);
        loop {
            let response = request().send().await.map_err(|error| self.unreachable(&error))?;
            let status = response.status();
            let pause = retry_after(&response);
            let wait = pause.filter(|_| is_busy(status) && tries < TRIES).map(|pause| pause.max(LEAST_PAUSE));
            match wait.filter(|wait| *wait <= left) {
                Some(wait) => {
                    tokio::time::sleep(wait).await;
                    left = left.saturating_sub(wait);
                    tries += 1;
                }
                None => return self.answer(response, pause).await,
            }
        }
    }

    async fn answer(&self, mut response: Response, pause: Option<Duration>) -> Result<Answer, Error> {
        let answer = self.read(&mut response).await?;
        let status = answer.status;
        if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
            return Err(self.somebody_else(status));
        }
        if status == StatusCode::TOO_MANY_REQUESTS {
            let when = pause.map_or_else(String::new, |pause| format!(" in {} s", pause.as_secs()));
            return Err(Error::new(
                Kind::Busy,
                format_args!("{} has had too many requests; try again{when}", self.url),
            ));
        }
        if status.is_server_error() {
            let said = answer.said();
            return Err(Error::new(Kind::Away, format_args!("{} is not well ({status}): {said}", self.url)));
        }
        Ok(answer)
    }

    async fn read(&self, response: &mut Response) -> Result<Answer, Error> {
        let (status, headers) = (response.status(), response.headers().clone());
        Ok(Answer { status, headers, body: self.body(response).await? })
    }

    async fn body(&self, response: &mut Response) -> Result<Zeroizing<Vec<u8>>, Error> {
        let mut body = Zeroizing::new(Vec::with_capacity(8 * 1024));
        while let Some(piece) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            if body.len() + piece.len() > MAX_BODY {
                return Err(self.strange("answers with more than it can have to say"));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    fn unreachable(&self, error: &reqwest::Error) -> Error {
        let told = told(error);
        if error.is_builder() {
            return Error::failed(format_args!(
                "nothing can be sent to {}: {told}; is the credential the right text?",
                self.url
            ));
        }
        if told.contains("certificate") {
            return Error::failed(format_args!(
                "{} does not prove that it is the desk: {told}{}",
                self.url,
                self.authority_advice(&told)
            ));
        }
        Error::new(Kind::Away, format_args!("{} cannot be reached: {told}", self.url))
    }

    /// What to do about a certificate, if its authority is what is wrong with it.
    fn authority_advice(&self, told: &str) -> String {
        match &self.ca_file {
            _ if !told.contains("UnknownIssuer") => String::new(),
            Some(file) => format!(". It is not of an authority in {}", file.display()),
            None => ". If its certificate is of an authority of your own, name that one's with KEYDESK_CA_FILE, or log in \
                     with --ca-file"
                .to_owned(),
        }
    }

    /// Whoever answers with this status is not the desk, or it is and the URL leads past it.
    pub(super) fn somebody_else(&self, status: StatusCode) -> Error {
        self.strange(&format!("answers {status} as no desk does; does the URL name the desk itself?"))
    }

    /// An answer that no desk gives.
    pub(super) fn strange(&self, what: &str) -> Error {
        Error::failed(format_args!("{} {what}", self.url))
    }
}

impl Answer {
    /// One of its headers.
    pub(super) fn header(&self, name: &HeaderName) -> Option<String> {
        self.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    }

    /// What is in it.
    pub(super) fn read<'a, T: Deserialize<'a>>(&'a self, wire: &Wire) -> Result<T, Error> {
        serde_json::from_slice(&self.body)
            .map_err(|_| wire.strange("answers in another form than a desk does; is it one?"))
    }

    /// The error's code (RFC 6749 §5.2).
    pub(super) fn code(&self) -> String {
        serde_json::from_slice::<Said>(&self.body).unwrap_or_default().error
    }

    /// Whether it is in the form in which a desk says what went wrong (RFC 9457).
    pub(super) fn is_problem(&self) -> bool {
        let kind = self.header(&header::CONTENT_TYPE).unwrap_or_default();
        kind.split(';')
            .next()
            .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/problem+json"))
    }

    /// What the desk says went wrong.
    pub(super) fn said(&self) -> String {
        let Said { error, error_description, detail } =
            serde_json::from_slice(&self.body).unwrap_or_default();
        let texts = [detail, error_description, error, self.status.to_string()];
        texts.into_iter().find(|text| !text.is_empty()).unwrap_or_default()
    }
}

fn is_busy(status: StatusCode) -> bool {
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
}

/// RFC 9110 §10.2.3, in seconds.
fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

fn certificates(path: &Path) -> Result<Vec<Certificate>, Error> {
    let cannot =
        |what: String| Error::failed(format_args!("cannot use the CA file {}: {what}", path.display()));
    let bytes = fs::read(path).map_err(|error| cannot(error.to_string()))?;
    let found = Certificate::from_pem_bundle(&bytes).map_err(|error| cannot(error.to_string()))?;
    if found.is_empty() { Err(cannot("there is no certificate in it".to_owned())) } else { Ok(found) }
}

/// What lies behind an error: the innermost cause says it in words that people know.
fn told(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it did not answer in time".to_owned();
    }
    let mut innermost: &dyn std::error::Error = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}
