//! `keydesk env`: the keys as other programs read variables.
//!
//! Every format is quoted so that it is read back as it was, whatever printable characters a key has; where that cannot be
//! done, there is an error and no key. Nothing is shown on a terminal, where somebody may look on, unless it is asked for.

use std::{
    env, fs,
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use zeroize::Zeroizing;

use super::{
    failure::Failure,
    output::Output,
    variables::{Given, Wanted},
};
use crate::{
    crypto::SystemEntropy,
    model::{Clock as _, Id, SystemClock},
};

pub(super) const HELP: &str = "Examples:
  eval \"$(keydesk env)\"
  keydesk env --project search --only openai --format dotenv > .env
  keydesk env --format github";

/// How variables are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Lines for sh, bash, dash and zsh
    Shell,
    /// Lines for a .env file
    Dotenv,
    /// An object of names and values
    Json,
    /// Appended to the file in `$GITHUB_ENV`, for the job's next steps, and masked in its log
    Github,
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    wanted: Wanted,
    /// How the variables are written
    #[arg(long, value_enum, default_value_t = Format::Shell)]
    format: Format,
    /// Show the keys on a terminal, too
    #[arg(long)]
    show: bool,
}

/// Text that is printed, with the keys in it.
type Text = Zeroizing<String>;

/// Prints the keys.
pub(super) async fn run(args: Args, out: Output) -> Result<(), Failure> {
    let Args { wanted, format, show } = args;
    if io::stdout().is_terminal() && !show {
        return Err(Failure::Usage(
            "this would show the keys on a terminal; if that is meant, say --show. To give them to a program: keydesk run"
                .to_owned(),
        ));
    }
    let format = if out.is_json() { Format::Json } else { format };
    // Whoever has no place for them is not handed any.
    let file = (format == Format::Github).then(github_file).transpose()?;
    print(&wanted.fetch(false).await?.given, format, file.as_deref())
}

fn print(given: &[Given], format: Format, file: Option<&Path>) -> Result<(), Failure> {
    let text = match format {
        Format::Shell => shell(given)?,
        Format::Dotenv => dotenv(given)?,
        Format::Json => json(given),
        Format::Github => masks(given),
    };
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::Output)?;
    // After the masks: from there on the job's log shows none of them.
    file.map_or(Ok(()), |file| append(file, &github(given)))
}

/// Lines that are put together from each variable's name and value.
#[expect(clippy::disallowed_methods, reason = "the keys are printed for whoever they were fetched for")]
fn lines(given: &[Given], line: impl Fn(&str, &str) -> Result<String, String>) -> Result<Text, Failure> {
    let mut text = Zeroizing::new(String::with_capacity(8192));
    for Given { provider, variable, key } in given {
        let line = line(variable, key.expose()).map(Zeroizing::new).map_err(|why| {
            Failure::Failed(format!("the key of {provider} cannot be written like that: {why}"))
        })?;
        text.push_str(&line);
    }
    Ok(text)
}

/// What needs no quotes anywhere.
fn is_plain(value: &str) -> bool {
    value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=@,%".contains(&byte))
}

/// A provider's slug may begin with a digit, and a variable's name may not.
fn check_name(name: &str) -> Result<(), String> {
    if name.starts_with(|first: char| first.is_ascii_digit()) {
        return Err(format!(
            "{name} is no name for a variable; `keydesk get` prints one key, and so does --format json"
        ));
    }
    Ok(())
}

fn shell(given: &[Given]) -> Result<Text, Failure> {
    lines(given, |name, value| {
        check_name(name)?;
        Ok(format!("export {name}='{}'\n", value.replace('\'', r"'\''")))
    })
}

/// What python-dotenv, Node's dotenv and `node --env-file` read alike. Bare where a value allows it, which `docker run
/// --env-file` needs, for it takes quotes as part of the value.
fn dotenv(given: &[Given]) -> Result<Text, Failure> {
    lines(given, |name, value| {
        check_name(name)?;
        let has = |any: &str| value.contains(|found: char| any.contains(found));
        if is_plain(value) {
            Ok(format!("{name}={value}\n"))
        } else if !has("'\\") {
            Ok(format!("{name}='{value}'\n"))
        } else if !has("\"\\$`") {
            Ok(format!("{name}=\"{value}\"\n"))
        } else if !has("#") && !value.starts_with(['\'', '"', '`']) {
            Ok(format!("{name}={value}\n"))
        } else {
            Err("programs read its quotes in a dotenv file differently; use another format, or `keydesk run`"
                .to_owned())
        }
    })
}

#[expect(clippy::disallowed_methods, reason = "the keys are printed for whoever they were fetched for")]
fn json(given: &[Given]) -> Text {
    let object: serde_json::Map<_, _> =
        given.iter().map(|given| (given.variable.clone(), given.key.expose().into())).collect();
    Zeroizing::new(format!("{:#}\n", serde_json::Value::Object(object)))
}

/// The file in which a workflow's variables are kept from one step to the next.
fn github_file() -> Result<PathBuf, Failure> {
    match env::var_os("GITHUB_ENV") {
        Some(file) if !file.is_empty() => Ok(file.into()),
        _ => Err(Failure::Failed(
            "GITHUB_ENV is not set: this format is for a step of a GitHub workflow".to_owned(),
        )),
    }
}

/// Workflow commands that keep the keys out of the job's log.
#[expect(clippy::disallowed_methods, reason = "the runner learns what to hide from its log")]
fn masks(given: &[Given]) -> Text {
    let mut text = Zeroizing::new(String::with_capacity(8192));
    for Given { key, .. } in given {
        text.extend(["::add-mask::", &Zeroizing::new(key.expose().replace('%', "%25")), "\n"]);
    }
    text
}

/// Between delimiters that nobody can have foreseen.
#[expect(clippy::disallowed_methods, reason = "the keys go to the workflow's next steps")]
fn github(given: &[Given]) -> Text {
    let delimiter = format!("keydesk_{}", Id::generate(SystemClock.now(), &SystemEntropy));
    let entry =
        |given: &Given| format!("{}<<{delimiter}\n{}\n{delimiter}\n", given.variable, given.key.expose());
    Zeroizing::new(given.iter().map(entry).collect())
}

fn append(file: &Path, text: &str) -> Result<(), Failure> {
    let open = fs::OpenOptions::new().append(true).create(true).open(file);
    let written = open.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| Failure::because(format_args!("cannot write {}", file.display()), &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn given(key: &str) -> [Given; 1] {
        let provider: crate::model::Provider = "openai".parse().unwrap();
        [Given { variable: provider.env_variable(), provider, key: Secret::new(key).into() }]
    }

    /// What is written after `OPENAI_API_KEY=`.
    fn in_dotenv(key: &str) -> Option<String> {
        let text = dotenv(&given(key)).ok()?;
        Some(text.strip_prefix("OPENAI_API_KEY=").unwrap().trim_end().to_owned())
    }

    #[test]
    fn a_dotenv_value_is_quoted_as_little_as_it_can_be() {
        for (key, written) in [
            ("sk-proj-Az09_./+=", Some("sk-proj-Az09_./+=")),
            ("sk#1", Some("'sk#1'")),
            ("sk$HOME`id`\"", Some("'sk$HOME`id`\"'")),
            ("it's", Some("\"it's\"")),
            ("sk\\n", Some("sk\\n")),
            ("a'b\"c", Some("a'b\"c")),
            ("a'b\"c#d", None),
            ("'a\"", None),
        ] {
            assert_eq!(in_dotenv(key).as_deref(), written, "{key}");
        }
    }

    #[test]
    fn a_name_that_no_shell_takes_is_told() {
        let provider: crate::model::Provider = "01-ai".parse().unwrap();
        let given = [Given { variable: provider.env_variable(), provider, key: Secret::new("sk").into() }];
        assert!(shell(&given).is_err() && dotenv(&given).is_err());
        assert_eq!(*json(&given), "{\n  \"01_AI_API_KEY\": \"sk\"\n}\n");
    }

    #[test]
    fn a_workflow_command_is_escaped() {
        assert_eq!(*masks(&given("sk%0A")), "::add-mask::sk%250A\n");
        let text = github(&given("sk%0A"));
        let lines: Vec<_> = text.lines().collect();
        let delimiter = lines[0].strip_prefix("OPENAI_API_KEY<<").unwrap();
        assert_eq!((lines[1], lines[2], lines.len()), ("sk%0A", delimiter, 3));
        assert_ne!(*github(&given("sk%0A")), *text, "nobody can foresee the delimiter");
    }
}
