//! What can be wrong between this machine and the desk, looked for in the order in which it gets in the way.
//!
//! Each finding says what it is and what to do. What is behind something that does not work is not looked at: a name that
//! nobody knows has no connection either. No key is fetched, so nothing of this is a handover in the book.

use std::{
    env, fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    time::Duration,
};

use reqwest::{Url, header};
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc2822};
use tokio::{net::TcpStream, time::timeout};

use super::{
    Choice, Client, Credential, Environment, Error, Keeper, Kind, Profiles, Readiness, Standing, standing,
    wire::{Answer, is_loopback},
};
use crate::model::{Clock as _, SystemClock, provider};

/// How long a name and a connection may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How far two clocks may be apart before certificates and tokens suffer.
const SKEW: u64 = 60;

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Well,
    /// Worth knowing.
    Note,
    /// Something is wrong.
    Wrong,
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How it stands.
    pub verdict: Verdict,
    /// In words.
    pub what: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// Findings so far.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, check: &'static str, verdict: Verdict, what: impl Into<String>, advice: &str) {
        let advice = (!advice.is_empty()).then(|| advice.to_owned());
        self.0.push(Finding { check, verdict, what: what.into(), advice });
    }

    fn well(&mut self, check: &'static str, what: impl Into<String>) {
        self.add(check, Verdict::Well, what, "");
    }

    fn note(&mut self, check: &'static str, what: impl Into<String>, advice: &str) {
        self.add(check, Verdict::Note, what, advice);
    }

    fn wrong(&mut self, check: &'static str, what: impl Into<String>, advice: &str) {
        self.add(check, Verdict::Wrong, what, advice);
    }
}

/// Looks at everything.
pub async fn examine(choice: &Choice, environment: &Environment) -> Vec<Finding> {
    let mut found = Findings::default();
    variables(&mut found);
    match Client::open(choice, environment) {
        Err(error) => found.wrong("profile", error.what, ""),
        Ok(client) => {
            found.well(
                "profile",
                format!("the desk is {}, the credential is from {}", client.url(), client.from()),
            );
            files(&mut found, &client, environment);
            if is_reached(&mut found, &client).await && is_a_desk(&mut found, &client).await {
                identity(&mut found, &client).await;
            }
        }
    }
    found.0
}

/// Keys that programs find without us.
fn variables(found: &mut Findings) {
    let names = provider::KNOWN.iter().flat_map(|known| known.variables.iter().copied());
    let set: Vec<_> = names.filter(|name| env::var_os(name).is_some_and(|value| !value.is_empty())).collect();
    if !set.is_empty() {
        let advice = "`keydesk run` sets its own over these; if they were not made by `eval \"$(keydesk env)\"`, remove them from \
                      your shell's files";
        found.note("variables", format!("set in this shell already: {}", set.join(", ")), advice);
    }
}

/// Where the session is, and who may read it.
fn files(found: &mut Findings, client: &Client, environment: &Environment) {
    let mut private: Vec<PathBuf> = Vec::new();
    if matches!(client.who.credential, Credential::Session) {
        let profiles = Profiles::open(environment).ok();
        let profile = profiles.as_ref().and_then(|profiles| profiles.named(client.who.profile.as_ref()?));
        let again = client.who.log_in_again();
        match profile.map(|profile| standing(environment, profile)) {
            Some(Ok(Standing::LoggedIn(Keeper::Keyring))) => found.well("session", "in the keyring"),
            Some(Ok(Standing::LoggedIn(Keeper::File))) => {
                found.well("session", "in a file that opens on this machine only");
            }
            Some(Ok(Standing::NotOurs)) => {
                found.wrong(
                    "session",
                    "its file is of another machine or user, or damaged",
                    &format!("run: {again}"),
                );
            }
            Some(Err(error)) => found.wrong("session", error.what, ""),
            _ => found.wrong("session", "there is none", &format!("run: {again}")),
        }
    }
    if let Ok(state) = environment.directory("XDG_STATE_HOME", ".local/state") {
        let entries = fs::read_dir(&state).into_iter().flatten().flatten().map(|entry| entry.path());
        private.extend(entries);
        private.push(state);
    }
    if let Some(path) = client.open_to_others() {
        let what = format!("others may read the credential in {}", path.display());
        found.note("files", what, &format!("run: chmod go= '{}'", path.display()));
    }
    for path in private {
        let Ok(mode) = fs::metadata(&path).map(|about| about.permissions().mode() & 0o777) else { continue };
        if mode & 0o077 != 0 {
            let what = format!("others may read {} (mode {mode:o})", path.display());
            found.wrong("files", what, &format!("run: chmod go= '{}'", path.display()));
        }
    }
}

/// Whether somebody is there to talk to.
async fn is_reached(found: &mut Findings, client: &Client) -> bool {
    let Ok(url) = Url::parse(client.url()) else { return false };
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    if let Some((variable, proxy)) = proxy(&url) {
        let advice = format!("if the desk is to be reached directly, add {host} to NO_PROXY");
        found.note("proxy", format!("{variable} is set: requests go through {proxy}"), &advice);
        return true;
    }
    let port = url.port_or_known_default().unwrap_or(443);
    let addresses: Vec<SocketAddr> =
        match timeout(PATIENCE, tokio::net::lookup_host((host.as_str(), port))).await {
            Ok(Ok(addresses)) => addresses.collect(),
            Ok(Err(_)) | Err(_) => Vec::new(),
        };
    if addresses.is_empty() {
        let advice = "is it spelt as whoever runs the desk says, and is this machine in its network (VPN)?";
        found.wrong("name", format!("nobody knows the name {host}"), advice);
        return false;
    }
    let listed: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
    if host.parse::<IpAddr>().is_err() {
        found.well("name", format!("{host} is {}", listed.join(", ")));
    }
    let mut why = String::new();
    for address in addresses {
        match timeout(PATIENCE, TcpStream::connect(address)).await {
            Ok(Ok(_)) => {
                found.well("connection", format!("{address} answers"));
                return true;
            }
            Ok(Err(error)) => why = format!("{address}: {error}"),
            Err(_) => why = format!("{address} did not answer in {} s", PATIENCE.as_secs()),
        }
    }
    let advice = "does the desk run, on this port (`keydesk serve` shows its address), and is there a firewall in between?";
    found.wrong("connection", why, advice);
    false
}

/// The proxy that requests to `url` go through, without its password.
fn proxy(url: &Url) -> Option<(&'static str, String)> {
    let names: [&str; 4] = match url.scheme() {
        "https" => ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"],
        _ => ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"],
    };
    if is_loopback(url) {
        return None;
    }
    let host = url.host_str().unwrap_or_default();
    let exempt = ["no_proxy", "NO_PROXY"].iter().filter_map(|name| env::var(name).ok()).any(|list| {
        list.split(',')
            .map(|name| name.trim().trim_start_matches(['*', '.']))
            .any(|name| !name.is_empty() && (host == name || host.ends_with(&format!(".{name}"))))
    });
    let (name, value) = names.into_iter().find_map(|name| Some((name, env::var(name).ok()?)))?;
    let shown = Url::parse(&value).ok().and_then(|proxy| proxy.host_str().map(str::to_owned));
    (!exempt && !value.is_empty()).then(|| (name, shown.unwrap_or_else(|| "a proxy".to_owned())))
}

/// Whether it is a desk, and well.
async fn is_a_desk(found: &mut Findings, client: &Client) -> bool {
    let look = match client.wire.probe("/health").await {
        Ok(look) => look,
        Err(error) => {
            let (check, advice) = why_not(&error, client.url());
            found.wrong(check, error.what, advice);
            return false;
        }
    };
    if client.url().starts_with("https://") {
        found.well("certificate", "it proves that this is the desk");
    }
    clock(found, &look);
    if let Some(via) = look.header(&header::VIA) {
        found.note("proxy", format!("the answer came through {via}"), "");
    }
    if look.status.as_u16() != 200 || said(client, &look)["status"] != "healthy" {
        let answer = match look.header(&header::LOCATION) {
            Some(location) => format!("{} to {location}", look.status),
            None => look.status.to_string(),
        };
        let advice =
            "does the URL name the desk itself, without a path, and is no login page or proxy in between?";
        found.wrong("desk", format!("{} answers as no desk does: {answer}", client.url()), advice);
        return false;
    }
    let version = match client.wire.probe("/openapi.json").await {
        Ok(look) => said(client, &look)["info"]["version"].as_str().map(str::to_owned),
        Err(_) => None,
    };
    let version = version.map_or_else(String::new, |version| format!(" {version}"));
    found.well("desk", format!("it is a keydesk{version}; this here is {}", env!("CARGO_PKG_VERSION")));
    match client.wire.probe("/health/ready").await {
        Ok(look) if look.status.as_u16() == 200 => found.well("ready", "it hands out keys"),
        Ok(look) => {
            let failing = look.read::<Readiness>(&client.wire).map(|found| found.failing().join(", "));
            let failing = failing.unwrap_or_else(|_| look.status.to_string());
            let advice = "whoever runs the desk finds the reason in its log";
            found.wrong("ready", format!("it hands out no keys now: {failing}"), advice);
        }
        Err(error) => found.wrong("ready", error.what, ""),
    }
    true
}

/// What stands behind a request that did not come through, as far as it can be told.
fn why_not(error: &Error, url: &str) -> (&'static str, &'static str) {
    let what = error.what.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| what.contains(word));
    if says(&["expired", "notvalidyet", "not valid yet"]) {
        ("certificate", "the desk needs a new certificate; or is the clock of this machine wrong?")
    } else if says(&["notvalidforname", "not valid for name"]) {
        ("certificate", "use the name that is in the certificate")
    } else if says(&["certificate", "unknownissuer"]) {
        (
            "certificate",
            "ask whoever runs the desk for the certificate of their authority, and name it with KEYDESK_CA_FILE",
        )
    } else if says(&["corrupt message", "invalidcontenttype"]) && url.starts_with("https") {
        ("certificate", "it does not speak TLS there: is it https:// or another port?")
    } else if url.starts_with("http:") {
        ("desk", "something else listens there, or the desk speaks TLS: then it is https://")
    } else {
        ("desk", "")
    }
}

/// What is in an answer; nothing, if that is no JSON.
fn said(client: &Client, answer: &Answer) -> serde_json::Value {
    answer.read(&client.wire).unwrap_or_default()
}

fn clock(found: &mut Findings, look: &Answer) {
    let theirs = look.header(&header::DATE).and_then(|date| OffsetDateTime::parse(&date, &Rfc2822).ok());
    let Some(theirs) = theirs.map(OffsetDateTime::unix_timestamp) else { return };
    let apart = theirs.abs_diff(SystemClock.now().seconds());
    if apart > SKEW {
        let what = format!("this machine's clock and the desk's are {apart} s apart");
        found.wrong("clock", what, "set the clock of the one that is wrong (NTP)");
    } else {
        found.well("clock", "the same here and there");
    }
}

/// Whether the credential is good, and what it is good for.
async fn identity(found: &mut Findings, client: &Client) {
    let me = match client.me().await {
        Ok(me) => me,
        Err(error) => {
            let advice = match error.kind {
                Kind::Busy | Kind::Away => "try again",
                _ => "",
            };
            return found.wrong("credential", error.what, advice);
        }
    };
    found.well("credential", format!("you are {}, {}", me.name, me.kind.replace('_', " ")));
    let granted = me.grants.iter().map(|grant| match &grant.providers {
        Some(providers) => format!("{} ({})", grant.project, providers.join(", ")),
        None => format!("{} (all providers)", grant.project),
    });
    let grants: Vec<_> = granted.collect();
    if grants.is_empty() {
        let advice = format!("somebody who may has to run: keydesk grant add {} default", me.name);
        return found.wrong("grants", "you may fetch no keys", &advice);
    }
    let asked = client.project(None);
    if !asked.is_empty() && !me.grants.iter().any(|grant| grant.project == asked) {
        let what = format!("you may not fetch keys of project {asked}, but of {}", grants.join(", "));
        return found.wrong("grants", what, "choose another project, or ask for a grant");
    }
    found.well("grants", format!("you may fetch keys of {}", grants.join(", ")));
}
