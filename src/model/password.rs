//! What may be a password: length, and not one that everybody guesses. No composition rules, no expiry (NIST SP 800-63B §5.1.1.2).

use super::PrincipalName;

/// The longest password in bytes; a longer one is refused before any work is done for it.
pub const MAX_PASSWORD_BYTES: usize = 1024;

/// The rules for a new password.
#[derive(Clone, Copy, Debug)]
pub struct PasswordPolicy {
    /// The fewest bytes a password may have.
    pub min_length: usize,
}

/// Why a text may not be a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Too few bytes.
    #[error("the password has fewer than {0} bytes; a few random words make a good one")]
    TooShort(usize),
    /// Too many bytes.
    #[error("the password has more than 1024 bytes")]
    TooLong,
    /// A control character, which no keyboard types and no form carries.
    #[error("the password has control characters")]
    Unprintable,
    /// A word that guessers try first, alone or repeated.
    #[error(
        "the password is a common word, a keyboard row or a repetition, which is what guessers try first"
    )]
    Common,
}

/// How many guesses a password must withstand, as a power of ten. Common passwords, and what is made of them by repeating,
/// spelling backwards, counting on or walking along the keyboard, fall below; four random words are far above.
const MIN_GUESSES_LOG10: f64 = 8.0;

/// Words of this place, which guessers of this place try.
const CONTEXT: [&str; 6] = ["keydesk", "openai", "anthropic", "gemini", "deepseek", "llm-keys"];

impl PasswordPolicy {
    /// Whether `password` may be the password of `name`.
    pub fn check(&self, name: &PrincipalName, password: &str) -> Result<(), PasswordError> {
        if password.len() < self.min_length {
            return Err(PasswordError::TooShort(self.min_length));
        }
        if password.len() > MAX_PASSWORD_BYTES {
            return Err(PasswordError::TooLong);
        }
        if password.chars().any(char::is_control) {
            return Err(PasswordError::Unprintable);
        }
        let mut words = CONTEXT.to_vec();
        words.push(name.as_str());
        if zxcvbn::zxcvbn(password, &words).guesses_log10() < MIN_GUESSES_LOG10 {
            return Err(PasswordError::Common);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_and_commonness_are_the_only_rules() {
        let policy = PasswordPolicy { min_length: 15 };
        let alice = "alice".parse().unwrap();
        let check = |password: &str| policy.check(&alice, password);
        assert_eq!(check("correct horse battery staple"), Ok(()));
        assert_eq!(check("ünïcödé is welcome here"), Ok(()));
        assert_eq!(check("tP7-xK2-qR9-mW4-zB6"), Ok(()));
        assert_eq!(check("14 bytes, no.."), Err(PasswordError::TooShort(15)));
        assert_eq!(check(&"long and fine ".repeat(80)), Err(PasswordError::TooLong));
        assert_eq!(check("tab\tand words and more words"), Err(PasswordError::Unprintable));
        for common in [
            "passwordpassword",
            "Admin-Admin-Admin-1",
            "123456789012345",
            "aaaaaaaaaaaaaaaaaaa",
            "keydeskkeydesk1",
            "drowssapdrowssap",
            "000000000000000000000000",
            "1q2w3e4r5t6y7u8i",
            "footballfootball",
            "trustno1trustno1",
            "asdfasdfasdfasdf",
            "iloveyouiloveyou",
            "openaiopenaiopenai",
            "alicealicealice1",
            "qwertyuiopasdfghjkl",
        ] {
            assert_eq!(check(common), Err(PasswordError::Common), "{common}");
        }
    }
}
