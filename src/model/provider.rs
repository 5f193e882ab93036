//! LLM providers: their slugs, and the environment variables by which their SDKs know a key.

use std::{fmt, str::FromStr};

use super::name::{NameError, canonical};

/// A provider's slug: `openai`, `anthropic`, …; `[a-z0-9][a-z0-9._-]{0,62}`. Providers outside [`KNOWN`] are welcome.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct Provider(String);

/// A provider whose conventional variables we know.
#[derive(Debug)]
pub struct KnownProvider {
    /// The slug.
    pub slug: &'static str,
    /// The variables that hold its key, the usual one first.
    pub variables: &'static [&'static str],
}

/// The providers whose keys are imported from the environment, in the order in which they are shown.
pub const KNOWN: &[KnownProvider] = &[
    KnownProvider { slug: "openai", variables: &["OPENAI_API_KEY"] },
    KnownProvider { slug: "anthropic", variables: &["ANTHROPIC_API_KEY"] },
    KnownProvider { slug: "gemini", variables: &["GEMINI_API_KEY", "GOOGLE_API_KEY"] },
    KnownProvider { slug: "deepseek", variables: &["DEEPSEEK_API_KEY"] },
    KnownProvider { slug: "mistral", variables: &["MISTRAL_API_KEY"] },
    KnownProvider { slug: "groq", variables: &["GROQ_API_KEY"] },
    KnownProvider { slug: "cohere", variables: &["CO_API_KEY", "COHERE_API_KEY"] },
    KnownProvider { slug: "together", variables: &["TOGETHER_API_KEY", "TOGETHERAI_API_KEY"] },
    KnownProvider { slug: "openrouter", variables: &["OPENROUTER_API_KEY"] },
    KnownProvider { slug: "xai", variables: &["XAI_API_KEY"] },
    KnownProvider { slug: "azure-openai", variables: &["AZURE_OPENAI_API_KEY", "AZURE_API_KEY"] },
    KnownProvider { slug: "bedrock", variables: &["AWS_BEARER_TOKEN_BEDROCK"] },
    KnownProvider { slug: "fireworks", variables: &["FIREWORKS_API_KEY", "FIREWORKS_AI_API_KEY"] },
    KnownProvider { slug: "perplexity", variables: &["PERPLEXITY_API_KEY", "PERPLEXITYAI_API_KEY"] },
];

impl Provider {
    /// The slug.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The variable in which the provider's own SDK looks for the key: the conventional one where we know it, else
    /// `SLUG_API_KEY`.
    pub fn env_variable(&self) -> String {
        KNOWN.iter().find(|known| known.slug == self.0).map_or_else(
            || format!("{}_API_KEY", self.0.to_ascii_uppercase().replace(['.', '-'], "_")),
            |known| known.variables[0].to_owned(),
        )
    }
}

impl Provider {
    /// The known provider whose key a variable holds, and the variable's place among those of that provider.
    pub fn of_variable(name: &str) -> Option<(Self, usize)> {
        KNOWN.iter().find_map(|known| {
            let place = known.variables.iter().position(|variable| *variable == name)?;
            Some((Self(known.slug.to_owned()), place))
        })
    }
}

impl FromStr for Provider {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        canonical(text, b"._-").map(Self)
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text cannot be a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyTextError {
    /// Shorter than [`MIN_KEY_BYTES`].
    #[error("it is shorter than 16 characters, so it cannot be a real key")]
    TooShort,
    /// Longer than [`MAX_KEY_BYTES`].
    #[error("it is longer than 4096 bytes")]
    TooLong,
    /// Not printable ASCII, so it could not travel in a header.
    #[error("it contains white space, control characters or characters outside ASCII")]
    NotPrintable,
    /// Copied from an example.
    #[error("it is a placeholder, not a key")]
    Placeholder,
}

/// The shortest text taken for a key.
pub const MIN_KEY_BYTES: usize = 16;
/// The longest.
pub const MAX_KEY_BYTES: usize = 4096;

/// Checks that `text` can be a provider key or an imported service API key. Shapes differ and change, so only what is
/// certainly wrong is refused: a placeholder that slipped through would be handed to people as if it were a key.
pub fn check_key_text(text: &str) -> Result<(), KeyTextError> {
    let lower = text.to_ascii_lowercase();
    let squeezed: String = lower.chars().filter(char::is_ascii_alphanumeric).collect();
    let body = squeezed.trim_start_matches("sk").trim_start_matches("ant").trim_start_matches("proj");
    let telling = [
        "yourapikey",
        "yourkey",
        "yoursecret",
        "changeme",
        "replaceme",
        "replacewith",
        "placeholder",
        "insertapikey",
        "insertyour",
    ];
    let named = squeezed.starts_with("your") && squeezed.ends_with("key");
    let filler = body.is_empty() || body.bytes().all(|b| b == body.as_bytes()[0]);
    let masked = ["***", "..."].iter().any(|mask| text.contains(mask));
    let unfilled = ["${", "$(", "{{", "<%", "://"].iter().any(|mark| lower.contains(mark));
    let nothing = ["undefined", "null", "none"].iter().any(|word| squeezed.replace(word, "").is_empty());
    if (lower.starts_with('<') && lower.ends_with('>'))
        || masked
        || unfilled
        || nothing
        || named
        || (filler && text.len() > 2)
        || telling.iter().any(|word| squeezed.contains(word))
    {
        Err(KeyTextError::Placeholder)
    } else {
        check_key_form(text)
    }
}

/// The same of a key that a desk has taken: what it was checked for then, apart from the words of examples, which grow.
pub fn check_key_form(text: &str) -> Result<(), KeyTextError> {
    if text.len() < MIN_KEY_BYTES {
        Err(KeyTextError::TooShort)
    } else if text.len() > MAX_KEY_BYTES {
        Err(KeyTextError::TooLong)
    } else if !text.bytes().all(|b| b.is_ascii_graphic()) {
        Err(KeyTextError::NotPrintable)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_and_stubs_are_told_from_keys() {
        for key in [
            "sk-proj-CANARY0123456789",
            "sk-ant-api03-abcdefghijkl",
            "AIzaSyA-1234567890abcdef",
            "0123456789abcdef",
        ] {
            assert_eq!(check_key_text(key), Ok(()), "{key}");
        }
        for stub in [
            "<your key here>",
            "your-openai-api-key",
            "sk-your-api-key-goes-here",
            "sk-xxxxxxxxxxxxxxxxxxxx",
            "CHANGE_ME",
            "${OPENAI_API_KEY}",
            "{{ openai_api_key }}",
            "INSERT_API_KEY_HERE",
            "op://vault/openai/credential",
            "undefinedundefined",
            "sk-...",
            "****************",
            "sk-proj-************6789",
            "sk-proj-abcd...wxyz0123",
        ] {
            assert_eq!(check_key_text(stub), Err(KeyTextError::Placeholder), "{stub}");
        }
        assert_eq!(check_key_text("sk-short"), Err(KeyTextError::TooShort));
        assert_eq!(check_key_text("sk-with a space 012345"), Err(KeyTextError::NotPrintable));
        assert_eq!(check_key_text("sk-with-newline-0123\n"), Err(KeyTextError::NotPrintable));
    }

    #[test]
    fn unknown_providers_get_a_conventional_variable() {
        assert_eq!("cohere".parse::<Provider>().unwrap().env_variable(), "CO_API_KEY");
        assert_eq!("my.own-llm".parse::<Provider>().unwrap().env_variable(), "MY_OWN_LLM_API_KEY");
    }
}
