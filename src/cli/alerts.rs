//! `keydesk alert`: do alarms arrive, and which were there.

use std::{sync::Arc, time::Duration};

use clap::Subcommand;

use super::{
    desk::{self, Desk},
    failure::Failure,
    output,
};
use crate::{
    app::{alarms::RaisedAlarm, outbox::Destination},
    config::{Config, Environment},
    crypto::webhook::WebhookKey,
    model::{Id, alarm::MessageForm},
    webhook::Endpoint,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Send a test alarm the whole way, and tell what the receiver answered
    #[command(after_help = "Example:
  export KEYDESK_ALERTS__WEBHOOK_URL=https://alerts.example.com/keydesk
  export KEYDESK_ALERTS__WEBHOOK_SECRET=whsec_$(openssl rand -base64 32)
  keydesk alert test

While the server runs, it is the server that sends. Exit code 0 means that the receiver has it.")]
    Test,
    /// List the alarms, the newest first, and whether they were delivered
    #[command(after_help = "Examples:
  keydesk alert list --limit 10
  keydesk alert list --json")]
    List {
        /// How many at most
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
}

pub(super) async fn run(
    desk: &Desk,
    config: &Config,
    environment: &Environment,
    command: Command,
) -> Result<(), Failure> {
    match command {
        Command::Test => test(desk, config, environment).await,
        Command::List { limit } => list(desk, limit).await,
    }
}

/// The endpoints that are configured. One that cannot work is an error, so that nobody believes to be told.
pub(super) fn endpoints(config: &Config, key: Option<WebhookKey>) -> Result<Vec<Endpoint>, Failure> {
    let (alerts, key) = (&config.alerts, key.map(Arc::new));
    let urls = [
        ("alerts.webhook_url", Destination::Alarms, &alerts.webhook_url, alerts.form),
        (
            "audit.checkpoint_webhook_url",
            Destination::Checkpoints,
            &alerts.checkpoint_webhook_url,
            MessageForm::Keydesk,
        ),
    ];
    let configured =
        urls.into_iter().filter_map(|(name, to, url, form)| Some((name, to, url.as_ref()?, form)));
    configured
        .map(|(name, to, url, form)| {
            Endpoint::new(to, url, key.clone(), form, &alerts.allow_to)
                .map_err(|error| Failure::because(name, &error))
        })
        .collect()
}

/// How long a running server may take: more than it waits for a receiver.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(200);

async fn test(desk: &Desk, config: &Config, environment: &Environment) -> Result<(), Failure> {
    if config.alerts.webhook_url.is_none() {
        return Err(Failure::Failed(
            "no webhook is configured: set alerts.webhook_url, or KEYDESK_ALERTS__WEBHOOK_URL, and \
             KEYDESK_ALERTS__WEBHOOK_SECRET; see keydesk alert test --help"
                .to_owned(),
        ));
    }
    let mut endpoints = Vec::new();
    if !desk::location(config).is_served().await {
        endpoints = self::endpoints(config, environment.secrets()?.webhook_key)?;
    }
    let id = desk.app.raise_test_alarm(&desk.caller).await?;
    for endpoint in endpoints {
        endpoint.post_due(&desk.app).await;
    }
    let alarm = outcome(desk, id).await?;
    match (&alarm.answer, &alarm.last_error) {
        (Some(answer), _) => {
            desk.out.object(&alarm, format_args!("the test alarm is delivered: the receiver answered {answer}"))
        }
        (None, Some(error)) => Err(Failure::Failed(format!(
            "the test alarm is not delivered: {error}; the server tries again until it is, see keydesk alert list"
        ))),
        (None, None) => Err(Failure::Failed(
            "the server has not sent the test alarm within 20 seconds: was it started with alerts.webhook_url? See its log"
                .to_owned(),
        )),
    }
}

/// What became of the first attempt.
async fn outcome(desk: &Desk, id: Id) -> Result<RaisedAlarm, Failure> {
    let begun = tokio::time::Instant::now();
    loop {
        let alarm = desk.app.alarm(&desk.caller, id).await?;
        if alarm.answer.is_some() || alarm.last_error.is_some() || begun.elapsed() > PATIENCE {
            return Ok(alarm);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn list(desk: &Desk, limit: u32) -> Result<(), Failure> {
    let alarms = desk.app.alarms(&desk.caller, i64::from(limit)).await?;
    desk.out.list(&alarms, ["time (utc)", "severity", "rule", "summary", "delivery"], |alarm| {
        [
            output::second(alarm.at),
            alarm.severity.clone(),
            alarm.rule.clone(),
            alarm.summary.clone(),
            delivery(alarm),
        ]
    })
}

/// What became of the message, in words.
fn delivery(alarm: &RaisedAlarm) -> String {
    let error = alarm.last_error.as_deref().unwrap_or("not sent yet");
    match (alarm.state.as_str(), alarm.next_attempt_at) {
        ("delivered", _) => "delivered".to_owned(),
        ("kept", _) => "no webhook".to_owned(),
        ("given_up", _) => format!("given up after {} attempts: {error}", alarm.attempts),
        (_, Some(next)) => format!("waits for {}: {error}", output::second(next)),
        (_, None) => error.to_owned(),
    }
}
