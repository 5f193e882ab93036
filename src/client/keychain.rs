//! The operating system's keyring, where there is one that can be used without asking anybody: on Linux the Secret Service of
//! the session's bus (`gnome-keyring`, `KWallet`, `KeePassXC`).
//!
//! Commands of this program run in scripts and below other programs, so nothing is tried that could start a service, open a
//! window or take long: the keyring has to be there already, and unlocked. Elsewhere, as on macOS so far, a sealed file takes
//! its place. The secret crosses the bus as it is, which is a socket of the user's own: to encrypt it there would bring a
//! second set of cryptography for no other reader.

use super::{environment::Environment, error::Error};
use crate::secret::Secret;

/// The way to the keyring, if there may be one.
#[derive(Clone, Debug)]
pub(super) struct Keychain {
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only Linux has a bus"))]
    address: Option<String>,
}

impl Keychain {
    /// That of the session that the environment is of.
    pub(super) fn of(environment: &Environment) -> Self {
        let named = environment.text("DBUS_SESSION_BUS_ADDRESS").unwrap_or_default();
        let usual = || {
            let socket = environment.path("XDG_RUNTIME_DIR")?.join("bus");
            socket.exists().then(|| format!("unix:path={}", socket.display()))
        };
        // Other ways, such as `autolaunch:`, start something or leave the machine.
        Self { address: named.or_else(usual).filter(|address| address.starts_with("unix:")) }
    }

    /// Keeps a refresh token; `false` if there is no keyring that takes it.
    pub(super) async fn keep(&self, account: &str, token: &Secret) -> bool {
        #[cfg(target_os = "linux")]
        if let Some(address) = &self.address {
            return secret_service::keep(address, account, token).await.is_some();
        }
        let _ = (account, token);
        false
    }

    /// The refresh token; an error if the keyring cannot be asked.
    pub(super) async fn find(&self, account: &str) -> Result<Option<Secret>, Error> {
        #[cfg(target_os = "linux")]
        if let Some(address) = &self.address
            && let Some(found) = secret_service::find(address, account).await
        {
            return Ok(found);
        }
        let _ = account;
        Err(Error::log_in(
            "the session is in the keyring, which is locked or not there: unlock it, or log in again where it is not needed",
        ))
    }

    /// Forgets it, if the keyring can be asked.
    pub(super) async fn forget(&self, account: &str) {
        #[cfg(target_os = "linux")]
        if let Some(address) = &self.address {
            let _ = secret_service::forget(address, account).await;
        }
        let _ = account;
    }
}

/// The Secret Service (specifications.freedesktop.org/secret-service), as far as one item needs it. `None` is everything that
/// makes the keyring one that cannot be used now.
#[cfg(target_os = "linux")]
mod secret_service {
    use std::{collections::HashMap, time::Duration};

    use serde::Serialize;
    use zbus::{
        Connection, DynamicType, Message, ObjectPath, OwnedObjectPath, OwnedVariant, Variant,
        connection::Builder,
    };

    use crate::secret::Secret;

    /// A keyring that is there answers in a few milliseconds.
    const PATIENCE: Duration = Duration::from_secs(2);
    const NAME: &str = "org.freedesktop.secrets";
    const ROOT: &str = "/org/freedesktop/secrets";
    const SERVICE: &str = "org.freedesktop.Secret.Service";
    const COLLECTION: &str = "org.freedesktop.Secret.Collection";
    const ITEM: &str = "org.freedesktop.Secret.Item";

    /// Session, parameters, value, content type.
    type Wire<T> = (T, Vec<u8>, Vec<u8>, String);

    pub(super) async fn keep(address: &str, account: &str, token: &Secret) -> Option<()> {
        within(async {
            let keyring = Keyring::open(address).await?;
            let reply = keyring.call(ROOT, SERVICE, "ReadAlias", &"default").await?;
            let collection: OwnedObjectPath = reply.body().deserialize().ok()?;
            // There is none, or to unlock it would ask somebody.
            if collection.as_str() == "/" || keyring.is_locked(&collection).await? {
                return None;
            }
            let attributes = Variant::from(attributes(account));
            let label = Variant::from(format!("keydesk: session of {account}"));
            let properties = HashMap::from([
                ("org.freedesktop.Secret.Item.Label", label),
                ("org.freedesktop.Secret.Item.Attributes", attributes),
            ]);
            #[expect(clippy::disallowed_methods, reason = "the token goes into the keyring")]
            let value = token.expose().as_bytes().to_vec();
            let secret: Wire<ObjectPath<'_>> =
                ((&keyring.session).into(), Vec::new(), value, "text/plain".to_owned());
            let reply = keyring
                .call(collection.as_str(), COLLECTION, "CreateItem", &(properties, secret, true))
                .await?;
            let (_, prompt): (OwnedObjectPath, OwnedObjectPath) = reply.body().deserialize().ok()?;
            (prompt.as_str() == "/").then_some(())
        })
        .await
    }

    /// The outer `None`: it cannot be asked; the inner one: it has none.
    pub(super) async fn find(address: &str, account: &str) -> Option<Option<Secret>> {
        within(async {
            let keyring = Keyring::open(address).await?;
            let Some(item) = keyring.item(account).await? else { return Some(None) };
            let reply = keyring.call(item.as_str(), ITEM, "GetSecret", &keyring.session).await?;
            let (_, _, value, _): Wire<OwnedObjectPath> = reply.body().deserialize().ok()?;
            String::from_utf8(value).ok().map(|text| Some(Secret::new(text)))
        })
        .await
    }

    pub(super) async fn forget(address: &str, account: &str) -> Option<()> {
        within(async {
            let keyring = Keyring::open(address).await?;
            if let Some(item) = keyring.item(account).await? {
                keyring.call(item.as_str(), ITEM, "Delete", &()).await?;
            }
            Some(())
        })
        .await
    }

    async fn within<T>(work: impl Future<Output = Option<T>>) -> Option<T> {
        tokio::time::timeout(PATIENCE, work).await.ok().flatten()
    }

    fn attributes(account: &str) -> HashMap<&'static str, String> {
        HashMap::from([("application", "keydesk".to_owned()), ("account", account.to_owned())])
    }

    struct Keyring {
        bus: Connection,
        session: OwnedObjectPath,
    }

    impl Keyring {
        async fn open(address: &str) -> Option<Self> {
            let bus = Builder::address(address).build().await.ok()?;
            // Not to be started by the question.
            let has_owner = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "NameHasOwner");
            let (name, path, method) = has_owner;
            let reply = bus.call_method(Some(name), path, Some(name), method, &NAME).await.ok()?;
            if !reply.body().deserialize::<bool>().ok()? {
                return None;
            }
            let asked = ("plain", Variant::from(""));
            let reply = bus.call_method(Some(NAME), ROOT, Some(SERVICE), "OpenSession", &asked).await.ok()?;
            let (_, session): (OwnedVariant, OwnedObjectPath) = reply.body().deserialize().ok()?;
            Some(Self { bus, session })
        }

        async fn call(
            &self,
            path: &str,
            interface: &str,
            method: &str,
            body: &(impl Serialize + DynamicType),
        ) -> Option<Message> {
            self.bus.call_method(Some(NAME), path, Some(interface), method, body).await.ok()
        }

        async fn is_locked(&self, collection: &OwnedObjectPath) -> Option<bool> {
            let asked = (COLLECTION, "Locked");
            let properties = "org.freedesktop.DBus.Properties";
            let reply = self.call(collection.as_str(), properties, "Get", &asked).await?;
            reply.body().deserialize::<OwnedVariant>().ok()?.try_into().ok()
        }

        /// The item of the account, if there is one; `None` also if it is there and locked.
        async fn item(&self, account: &str) -> Option<Option<OwnedObjectPath>> {
            let reply = self.call(ROOT, SERVICE, "SearchItems", &attributes(account)).await?;
            let (unlocked, locked): (Vec<OwnedObjectPath>, Vec<OwnedObjectPath>) =
                reply.body().deserialize().ok()?;
            match unlocked.into_iter().next() {
                None if !locked.is_empty() => None,
                found => Some(found),
            }
        }
    }
}
