//! The one gate for changes: authorise, work, write the event, all or nothing.
//!
//! An operation begins a [`Change`], works on its transaction, and hands its result to [`Change::finish`]. A success is
//! committed together with its event and a new revision; a failure leaves nothing behind but an event that says so.

use std::ops;

use super::{App, Error, book::Work, session::not_a_principal};
use crate::{
    model::{Action, AuditEvent, Caller, CredentialKind, Id, Principal, Scope, ScopeSet},
    store::{Tx, principals},
};

/// A change under way.
pub struct Change<'a> {
    app: &'a App,
    work: Work,
    /// What will be written about it...
    pub event: AuditEvent,
    /// ...and, before that, about other sides of it.
    others: Vec<AuditEvent>,
}

impl App {
    /// What is done before a change begins, and what the book says if it fails: that the change did.
    pub(super) async fn prepared<T>(
        &self,
        result: Result<T, Error>,
        caller: &Caller,
        action: Action,
        object: &str,
    ) -> Result<T, Error> {
        if let Err(error) = &result
            && !self.shed.counts(error)
        {
            self.book.record(AuditEvent::by(caller, action).on(object).failed(error.code())).await?;
        }
        result
    }

    /// Begins a change to `object` that needs `scope`.
    pub(super) async fn change(
        &self,
        caller: &Caller,
        scope: Scope,
        action: Action,
        object: String,
    ) -> Result<Change<'_>, Error> {
        let event = AuditEvent::by(caller, action).on(object);
        self.authorise(caller, scope, &event).await?;
        self.begin_change(caller, event).await
    }

    /// If anything that decides access has changed since it was found out who asks, it is found out once more whether they
    /// still may: from here on nobody else changes anything.
    async fn begin_change(&self, caller: &Caller, event: AuditEvent) -> Result<Change<'_>, Error> {
        let mut work = self.book.begin().await?;
        if let Some(id) = caller.own_id().filter(|_| caller.revision != work.revision()) {
            let now = principals::by_id(&mut work, id).await?;
            let error = match now.filter(Principal::is_enabled) {
                None => Some(Error::CredentialInvalid),
                Some(now) if caller.scopes.within(now.role) != caller.scopes => {
                    Some(Error::Forbidden("your role was changed meanwhile".to_owned()))
                }
                Some(_) => None,
            };
            if let Some(error) = error {
                drop(work);
                self.book.record(event.denied("changed_meanwhile")).await?;
                return Err(error);
            }
        }
        Ok(Change { app: self, work, event, others: Vec::new() })
    }
}

impl App {
    /// Begins a change that a principal makes to what is its own. Needs an access token: an API key, which lives long and is
    /// easily copied, cannot be used to make others. A one-time password allows nothing but its own change.
    pub(super) async fn own_change(
        &self,
        caller: &Caller,
        action: Action,
        object: String,
    ) -> Result<Change<'_>, Error> {
        let event = AuditEvent::by(caller, action).on(object);
        self.authorise_own(caller, &event).await?;
        self.begin_change(caller, event).await
    }

    /// Refuses, and writes down the refusal, unless the caller may make this change to what is its own.
    pub(super) async fn authorise_own(&self, caller: &Caller, event: &AuditEvent) -> Result<(), Error> {
        let allowed = caller.credential == CredentialKind::AccessToken
            && (caller.scopes != ScopeSet::of(&[Scope::PasswordChange])
                || event.action == Action::UserSetPassword);
        if allowed {
            return Ok(());
        }
        self.book.record(event.clone().denied("forbidden")).await?;
        Err(Error::Forbidden("this needs an access token from a full login".to_owned()))
    }

    /// Who looks at what is its own: any credential will do, but not a one-time password.
    pub(super) async fn own(&self, caller: &Caller, object: &str) -> Result<Id, Error> {
        let id = caller.own_id().ok_or_else(not_a_principal)?;
        if caller.scopes == ScopeSet::of(&[Scope::PasswordChange]) {
            let event = AuditEvent::by(caller, Action::OwnRead).on(object);
            self.book.record(event.denied("forbidden")).await?;
            return Err(Error::Forbidden("change the one-time password first".to_owned()));
        }
        Ok(id)
    }
}

impl Change<'_> {
    /// One more event is written in the same transaction, about another side of the same change.
    pub(super) fn also(&mut self, event: AuditEvent) {
        self.others.push(event);
    }

    /// Ends the change: `result` tells how the work went.
    pub(super) async fn finish<T>(mut self, result: Result<T, Error>) -> Result<T, Error> {
        match result {
            Ok(value) => {
                // First: a process that already writes in the book must not have to wait for those whom this waits for.
                self.work.bump_revision().await?;
                for event in self.others.into_iter().chain([self.event]) {
                    self.work.record(event).await?;
                }
                self.work.commit().await?;
                Ok(value)
            }
            Err(error) if self.app.shed.counts(&error) => Err(error),
            Err(error) => {
                drop(self.work);
                self.app.book.record(self.event.failed(error.code())).await?;
                Err(error)
            }
        }
    }
}

impl ops::Deref for Change<'_> {
    type Target = Tx;
    fn deref(&self) -> &Tx {
        &self.work
    }
}

impl ops::DerefMut for Change<'_> {
    fn deref_mut(&mut self) -> &mut Tx {
        &mut self.work
    }
}
