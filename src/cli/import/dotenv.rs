//! A dotenv file, line by line, as the programs read it that people have it for.
//!
//! Libraries that read such files stop at the first line that they do not understand, quote it in their error, put the values of
//! our own environment in, and do not tell where a value stood. Here every line has a number, a line that is not understood is
//! left, and nothing is replaced.

use zeroize::Zeroizing;

use crate::secret::Secret;

/// Something that is not blank and no comment.
#[derive(Debug)]
pub(super) struct Line {
    /// Counted from one.
    pub(super) number: usize,
    /// The variable, if it is one: what else stands there may be a secret.
    pub(super) name: Option<String>,
    /// Its value, or why there is none.
    pub(super) value: Result<Secret, &'static str>,
}

/// All of it.
pub(super) fn lines(text: &str) -> Vec<Line> {
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut number, mut found) = (0, Vec::new());
    while !rest.is_empty() {
        let begun = number + 1;
        let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
        (number, rest) = (begun, after);
        let line = line.trim_matches([' ', '\t', '\r']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let assigned =
            line.strip_prefix("export").filter(|line| line.starts_with([' ', '\t'])).unwrap_or(line);
        let Some((name, value)) = assigned.split_once('=').filter(|(name, _)| is_name(name.trim())) else {
            found.push(Line { number: begun, name: None, value: Err("it sets no variable") });
            continue;
        };
        // A value in quotes may go on in the lines that follow.
        let quote = value.trim_start().chars().next().filter(|first| "'\"`".contains(*first));
        let value = match quote {
            None => unquoted(value),
            Some(quote) => {
                let opened = Zeroizing::new(format!("{}\n{after}", &value.trim_start()[1..]));
                match closing(&opened, quote) {
                    None => Err("its quote is not closed"),
                    Some(end) => {
                        let skipped = opened[..end].matches('\n').count();
                        let tail = opened[end + 1..].split('\n').next().unwrap_or_default().trim();
                        for _ in 0..skipped {
                            rest = rest.split_once('\n').map_or("", |(_, after)| after);
                        }
                        number += skipped;
                        quoted(&opened[..end], quote, tail)
                    }
                }
            }
        };
        found.push(Line { number: begun, name: Some(name.trim().to_owned()), value });
    }
    found
}

fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Where the quote is that ends this.
fn closing(text: &str, quote: char) -> Option<usize> {
    let mut is_escaped = false;
    text.char_indices().find_map(|(at, found)| {
        let is_end = found == quote && !is_escaped;
        is_escaped = found == '\\' && !is_escaped && quote != '`';
        is_end.then_some(at)
    })
}

fn quoted(text: &str, quote: char, tail: &str) -> Result<Secret, &'static str> {
    if !(tail.is_empty() || tail.starts_with('#')) {
        return Err("something follows its closing quote");
    }
    if quote == '"' {
        check_references(text)?;
    }
    let escapes: &[&str] = match quote {
        '"' => &["\\\"", "\\\\", "\\$"],
        '\'' => &["\\'", "\\\\"],
        _ => &[],
    };
    let mut value = Zeroizing::new(String::with_capacity(text.len()));
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skip = usize::from(escapes.iter().any(|escape| rest.starts_with(escape)));
        let taken = if skip == 1 { &rest[1..2] } else { &rest[..first.len_utf8()] };
        value.push_str(taken);
        rest = &rest[skip + taken.len()..];
    }
    some(&value)
}

fn unquoted(text: &str) -> Result<Secret, &'static str> {
    let end = text.match_indices('#').find(|(at, _)| text[..*at].ends_with([' ', '\t']));
    let value = text[..end.map_or(text.len(), |(at, _)| at)].trim();
    check_references(value)?;
    some(value)
}

fn some(value: &str) -> Result<Secret, &'static str> {
    if value.is_empty() { Err("it is empty") } else { Ok(Secret::new(value)) }
}

/// Some programs put another variable's value in, some do not: which was meant cannot be known.
fn check_references(text: &str) -> Result<(), &'static str> {
    let refers = |at: usize| {
        let is_escaped = text[..at].ends_with('\\');
        let next = text[at + 1..].chars().next();
        !is_escaped && next.is_some_and(|next| next.is_ascii_alphabetic() || "_{(".contains(next))
    };
    if text.match_indices('$').any(|(at, _)| refers(at)) {
        return Err(
            "it refers to another variable; if the $ is part of the key, put the key in single quotes",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "what was read is compared")]
    fn read(text: &str) -> Vec<(usize, Option<String>, Result<String, &'static str>)> {
        let told = |line: Line| (line.number, line.name, line.value.map(|value| value.expose().to_owned()));
        lines(text).into_iter().map(told).collect()
    }

    #[test]
    fn values_are_read_as_programs_read_them() {
        for (line, value) in [
            ("A=sk-1234", "sk-1234"),
            ("A = sk-1234  ", "sk-1234"),
            ("export A=sk-1234", "sk-1234"),
            ("  export\tA=sk-1234\r", "sk-1234"),
            ("A=sk-1234 # mine", "sk-1234"),
            ("A=sk#1234", "sk#1234"),
            ("A='sk-1234'", "sk-1234"),
            ("A=\"sk-1234\" # mine", "sk-1234"),
            ("A=`sk\"'1234`", "sk\"'1234"),
            ("A='sk$abc'", "sk$abc"),
            (r#"A="sk\"12\\34\$a""#, r#"sk"12\34$a"#),
            (r"A='it\'s'", "it's"),
            ("A=sk=12==", "sk=12=="),
            ("A=sk$1", "sk$1"),
            ("\u{feff}A=sk-1234", "sk-1234"),
        ] {
            assert_eq!(read(line), [(1, Some("A".to_owned()), Ok(value.to_owned()))], "{line}");
        }
    }

    #[test]
    fn what_is_not_understood_is_left_and_the_rest_is_read() {
        for line in [
            "sk-alone",
            "A=",
            "A=''",
            "A=${B}",
            "A=$B",
            "A=\"a $HOME\"",
            "A='1' 2",
            "2A=1",
            "A B=1",
            "A=\"two\nlines\" x",
        ] {
            let found = read(&format!("# mine\n\n{line}\n\nB=b\n"));
            assert!(matches!(&found[0], (3, _, Err(_))), "{line}: {found:?}");
            let last = 5 + line.matches('\n').count();
            assert_eq!(found[1..], [(last, Some("B".to_owned()), Ok("b".to_owned()))], "{line}");
        }
        assert!(
            matches!(&read("A='open\nB=b")[..], [(1, _, Err(_)), (2, _, Ok(_))]),
            "a quote that is not closed"
        );
        assert_eq!(
            read("A='one\ntwo'\nB=b")[1],
            (3, Some("B".to_owned()), Ok("b".to_owned())),
            "a value in quotes may have several lines"
        );
    }
}
