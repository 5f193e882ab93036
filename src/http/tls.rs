//! TLS: the certificate and its key, read from files, and read again when they change.
//!
//! The listener goes on with what it has until there is something better: a new pair that cannot be used (half written, a key
//! of another certificate, expired) is reported and left alone. Connections that exist keep the certificate they began with.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::{self, CryptoProvider},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    version::{TLS12, TLS13},
};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use crate::{
    app::{App, fingerprint},
    model::Timestamp,
};

/// How often to look at the files.
const LOOK: Duration = Duration::from_secs(1);

/// Where certificate and key are.
#[derive(Clone, Debug)]
pub struct Files {
    /// The certificate chain, the server's own first (PEM).
    pub certificate: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
    /// Who signs the certificates that clients must show, if they must (PEM).
    pub client_ca: Option<PathBuf>,
}

/// Why a certificate cannot be used: which file, what is wrong with it, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// What the files hold.
struct Contents {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    client_ca: Vec<u8>,
    digest: String,
}

/// A certificate that can be served with.
struct Loaded {
    config: Arc<ServerConfig>,
    expires_at: Timestamp,
    digest: String,
}

/// The TLS of a listener.
#[derive(Debug)]
pub struct Tls {
    files: Files,
    current: RwLock<Arc<ServerConfig>>,
    /// What `current` was made of, and what else was looked at and refused.
    seen: RwLock<String>,
    expires_at: RwLock<Timestamp>,
}

impl Tls {
    /// Reads the files. An expired certificate is a warning only: a desk that does not start helps nobody.
    pub fn load(files: Files, now: Timestamp) -> Result<Self, Error> {
        let loaded = files.read()?.load(&files)?;
        if loaded.expires_at <= now {
            tracing::error!(
                "the certificate {} expired at {}: clients will refuse to talk to this desk until it is replaced",
                files.certificate.display(),
                loaded.expires_at
            );
        }
        Ok(Self {
            files,
            current: RwLock::new(loaded.config),
            seen: RwLock::new(loaded.digest),
            expires_at: RwLock::new(loaded.expires_at),
        })
    }

    /// Until when the certificate is valid.
    pub fn expires_at(&self) -> Timestamp {
        *self.expires_at.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What secures a new connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Follows the files until it is dropped; at once when `reload` is notified.
    pub(super) async fn follow(self: Arc<Self>, app: Arc<App>, reload: Arc<Notify>) {
        app.serve_with_certificate_until(self.expires_at());
        let mut before = String::new();
        loop {
            let asked = tokio::select! {
                () = reload.notified() => true,
                () = tokio::time::sleep(LOOK) => false,
            };
            let files = self.files.clone();
            let Ok(contents) = tokio::task::spawn_blocking(move || files.read()).await else { continue };
            let (digest, contents) = match contents {
                Ok(contents) => (contents.digest.clone(), Ok(contents)),
                Err(error) => (error.to_string(), Err(error)),
            };
            // Two files are not written at once: what is not yet the same for a second look is not finished.
            let settled = asked || digest == before;
            before.clone_from(&digest);
            if settled && (asked || digest != *self.seen.read().unwrap_or_else(PoisonError::into_inner)) {
                self.replace(contents, &app);
                *self.seen.write().unwrap_or_else(PoisonError::into_inner) = digest;
            }
        }
    }

    fn replace(&self, contents: Result<Contents, Error>, app: &App) {
        let loaded = contents.and_then(|contents| contents.load(&self.files)).and_then(|loaded| {
            if loaded.expires_at > app.now() {
                return Ok(loaded);
            }
            let path = self.files.certificate.display();
            Err(Error(format!("the certificate {path} expired at {}", loaded.expires_at)))
        });
        match loaded {
            Ok(loaded) => {
                tracing::info!(expires_at = %loaded.expires_at, "the certificate was read again");
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = loaded.config;
                *self.expires_at.write().unwrap_or_else(PoisonError::into_inner) = loaded.expires_at;
                app.serve_with_certificate_until(loaded.expires_at);
            }
            Err(error) => {
                tracing::error!(%error, "the new certificate cannot be used; serving on with the one before");
                app.refuse_certificate();
            }
        }
    }
}

impl Files {
    fn read(&self) -> Result<Contents, Error> {
        let mode = fs::metadata(&self.key).map(|metadata| metadata.permissions().mode() & 0o777);
        if let Ok(mode) = mode
            && mode & 0o007 != 0
        {
            let key = self.key.display();
            return Err(Error(format!(
                "the private key {key} can be read by everybody (mode {mode:04o}); run: chmod o= {key}"
            )));
        }
        let certificate = read(&self.certificate)?;
        let key = Zeroizing::new(read(&self.key)?);
        let client_ca = self.client_ca.as_deref().map(read).transpose()?.unwrap_or_default();
        let digests = [&certificate, &*key, &client_ca].map(|bytes| fingerprint(bytes));
        Ok(Contents { certificate, key, client_ca, digest: digests.concat() })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|error| Error(format!("cannot read {}: {error}", path.display())))
}

impl Contents {
    fn load(&self, files: &Files) -> Result<Loaded, Error> {
        let chain = certificates(&self.certificate, &files.certificate)?;
        let expires_at = expiry(&chain, &files.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| {
            Error(format!("{} holds no private key in PEM that can be read", files.key.display()))
        })?;
        let provider = Arc::new(crypto::aws_lc_rs::default_provider());
        let unusable = |what: &dyn std::fmt::Display| {
            let (certificate, key) = (files.certificate.display(), files.key.display());
            Error(format!("the certificate {certificate} and the key {key} cannot be used together: {what}"))
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| unusable(&error))?;
        let builder = match &files.client_ca {
            Some(path) => builder.with_client_cert_verifier(self.clients(path, provider)?),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| unusable(&error))?;
        // The strongest that both know, whatever the client likes best.
        config.ignore_client_order = true;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Loaded { config: Arc::new(config), expires_at, digest: self.digest.clone() })
    }

    /// Who may connect at all.
    fn clients(
        &self,
        path: &Path,
        provider: Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, Error> {
        let unusable = |error: &dyn std::fmt::Display| {
            Error(format!("{} cannot be used to check clients: {error}", path.display()))
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.client_ca, path)? {
            roots.add(certificate).map_err(|error| unusable(&error))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        verifier.build().map_err(|error| unusable(&error))
    }
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(Error(format!("{} holds no certificate in PEM", path.display()))),
        Err(_) => Err(Error(format!("{} holds a damaged certificate", path.display()))),
    }
}

/// Until when the first certificate of a chain is valid.
fn expiry(chain: &[CertificateDer<'_>], path: &Path) -> Result<Timestamp, Error> {
    let parsed = chain.first().and_then(|first| x509_parser::parse_x509_certificate(first).ok());
    let (_, certificate) =
        parsed.ok_or_else(|| Error(format!("{} holds a damaged certificate", path.display())))?;
    Ok(Timestamp::from_micros(certificate.validity().not_after.timestamp().saturating_mul(1_000_000)))
}
