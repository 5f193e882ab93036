//! Alarms: what somebody should hear of at once, in words for a person who was woken up by it.

use std::{fmt, time::Duration};

/// Why there is an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Many users failed from one source, or one user from many.
    PasswordSpraying,
    /// So many attempts that most were turned away.
    PasswordGuessing,
    /// A spent refresh token came back.
    RefreshTokenReuse,
    /// A principal came from where it never came from.
    NewNetwork,
    /// A principal read far more keys than ever before.
    UnusualKeyReads,
    /// Somebody tried to administer and may not.
    DeniedAdministration,
    /// A sealed record does not open.
    BrokenSeal,
    /// The book cannot be written.
    BookFailure,
    /// The book can be written again.
    BookRecovery,
    /// The book was found to be forged.
    ForgedBook,
    /// Checkpoints of the book cannot be written to their file, or do not arrive at their webhook.
    CheckpointFailure,
    /// The disk is nearly full.
    DiskSpace,
    /// The certificate of the server is about to expire.
    CertificateExpiry,
    /// The files of the certificate have changed to what cannot be used.
    CertificateRefused,
    /// A provider key is about to expire.
    ProviderKeyExpiry,
    /// The clock was set.
    ClockJump,
    /// Nothing has happened: somebody tries whether alarms arrive. The last, by which a test sees that [`Rule::ALL`] has all.
    Test,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Good to know.
    Info,
    /// Look at it today.
    Warning,
    /// Look at it now.
    Critical,
}

impl Severity {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// What is fixed about a rule: its name, how bad it is, what to do about it.
struct Facts(&'static str, Severity, &'static str);

impl Rule {
    /// Every rule.
    pub const ALL: [Self; 17] = [
        Self::PasswordSpraying,
        Self::PasswordGuessing,
        Self::RefreshTokenReuse,
        Self::NewNetwork,
        Self::UnusualKeyReads,
        Self::DeniedAdministration,
        Self::BrokenSeal,
        Self::BookFailure,
        Self::BookRecovery,
        Self::ForgedBook,
        Self::CheckpointFailure,
        Self::DiskSpace,
        Self::CertificateExpiry,
        Self::CertificateRefused,
        Self::ProviderKeyExpiry,
        Self::ClockJump,
        Self::Test,
    ];

    const fn facts(self) -> Facts {
        use Severity::{Critical, Info, Warning};
        match self {
            Self::PasswordSpraying => Facts(
                "password_spraying",
                Warning,
                "Attempts are throttled already. If you know the source, stop it there; look whether any attempt got through: \
                 keydesk audit list --action token.issue --outcome allowed --since 1h",
            ),
            Self::PasswordGuessing => Facts(
                "password_guessing",
                Warning,
                "The attempts were turned away unseen. See who is tried: keydesk audit list --action token.issue --outcome \
                 denied --since 1h",
            ),
            Self::RefreshTokenReuse => Facts(
                "refresh_token_reuse",
                Critical,
                "Somebody has a copy of a refresh token. The session was ended; ask its owner where the token may have \
                 leaked, and rotate the provider keys that it could fetch.",
            ),
            Self::NewNetwork => Facts(
                "new_network",
                Warning,
                "If the owner does not know of it, disable the principal (keydesk user disable, or service-account \
                 disable) and rotate the provider keys that it could fetch.",
            ),
            Self::UnusualKeyReads => Facts(
                "unusual_key_reads",
                Warning,
                "Ask the owner what has changed; a client in a loop and a stolen credential look the same: keydesk audit \
                 list --action llm_keys.read --since 1h",
            ),
            Self::DeniedAdministration => Facts(
                "denied_administration",
                Warning,
                "Ask who did this what they meant to do; if they do not know of it, their credential is in other hands.",
            ),
            Self::BrokenSeal => Facts(
                "broken_seal",
                Critical,
                "A sealed record was changed, moved, or sealed by another key. Set the provider key again, and find out \
                 who could write the database.",
            ),
            Self::BookFailure => Facts(
                "book_failure",
                Critical,
                "While the book cannot be written, no key is handed over. Look at the disk and the log of the server.",
            ),
            Self::BookRecovery => Facts("book_recovery", Info, "Nothing to do: keys are handed over again."),
            Self::ForgedBook => Facts(
                "forged_book",
                Critical,
                "Somebody who can write the database has changed the book. Keep a copy of the data directory as it is, and run: \
                 keydesk audit verify",
            ),
            Self::CheckpointFailure => Facts(
                "checkpoint_failure",
                Warning,
                "Checkpoints wait in the database until the file in audit.checkpoint_file can be written, and for sixteen hours \
                 until the receiver at audit.checkpoint_webhook_url takes them. The log of the server says why not.",
            ),
            Self::DiskSpace => Facts(
                "disk_space",
                Critical,
                "When the disk is full, no key is handed over. Free some space, or move the data directory.",
            ),
            Self::CertificateExpiry => Facts(
                "certificate_expiry",
                Warning,
                "Renew the file in tls.cert_file; it is read again by itself.",
            ),
            Self::CertificateRefused => Facts(
                "certificate_refused",
                Warning,
                "The certificate from before is served on. The log of the server says what is wrong with the files.",
            ),
            Self::ProviderKeyExpiry => Facts(
                "provider_key_expiry",
                Warning,
                "Make a new key at the provider and set it with: keydesk key set",
            ),
            Self::ClockJump => Facts(
                "clock_jump",
                Warning,
                "Tokens and throttles go by the clock. Check the time service of the machine; after a machine was \
                 suspended, nothing is to be done.",
            ),
            Self::Test => Facts("test", Info, "Nothing has happened: somebody tried whether alarms arrive."),
        }
    }

    /// The name in the book and in messages.
    pub const fn as_str(self) -> &'static str {
        self.facts().0
    }

    /// How bad it is.
    pub const fn severity(self) -> Severity {
        self.facts().1
    }

    /// What to do about it.
    pub const fn advice(self) -> &'static str {
        self.facts().2
    }

    /// For how long the same thing is not told again.
    pub const fn window(self) -> Duration {
        match self {
            Self::CertificateExpiry | Self::ProviderKeyExpiry => Duration::from_hours(24),
            Self::Test => Duration::ZERO,
            _ => Duration::from_hours(1),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An alarm. Like the book it never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// Why.
    pub rule: Rule,
    /// About what: `user:alice`, `source:192.0.2.7`, `disk`. The same rule about the same subject is told once per window.
    pub subject: String,
    /// What happened, in a sentence.
    pub summary: String,
    /// The request in which it showed, for finding it in the book.
    pub request_id: Option<String>,
}

impl Alarm {
    /// An alarm that no single request has brought about.
    pub fn new(rule: Rule, subject: impl Into<String>, summary: impl Into<String>) -> Self {
        Self { rule, subject: subject.into(), summary: summary.into(), request_id: None }
    }

    /// The same, shown by this request.
    #[must_use]
    pub fn in_request(self, request_id: &str) -> Self {
        Self { request_id: Some(request_id.to_owned()), ..self }
    }
}

/// In which form alarms are posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageForm {
    /// Our own JSON.
    Keydesk,
    /// `{"text": …}`, as Slack and its like take it.
    Slack,
}
