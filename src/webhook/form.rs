//! The forms of a message other than our own.

use serde_json::{Value, json};

/// `{"text": …}`, as Slack, Mattermost and others take it. What came from outside is escaped, so that nobody can write a
/// link or call a whole channel.
pub(super) fn slack(body: &str) -> String {
    let message: Value = serde_json::from_str(body).unwrap_or_default();
    let said = |name: &str| escaped(message["data"][name].as_str().unwrap_or_default());
    let text = format!(
        "*[{}] {}*: {}\n{}\n{} at {}, {}",
        said("severity"),
        said("rule"),
        said("summary"),
        said("advice"),
        said("subject"),
        said("desk"),
        escaped(message["timestamp"].as_str().unwrap_or_default()),
    );
    json!({ "text": text }).to_string()
}

/// The three characters that mean something to Slack.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_from_outside_stays_text() {
        let body = json!({"timestamp": "t", "data": {"rule": "test", "severity": "info", "summary": "<!channel> a & b",
                          "advice": "none", "subject": "user:<x>", "desk": "https://d"}});
        let sent: Value = serde_json::from_str(&slack(&body.to_string())).unwrap();
        assert_eq!(
            sent["text"],
            "*[info] test*: &lt;!channel&gt; a &amp; b\nnone\nuser:&lt;x&gt; at https://d, t"
        );
    }
}
