//! Keys in what a command prints are replaced by their name: `[openai key]`.
//!
//! It works on bytes as they come, so that binary output passes untouched and a key that comes in pieces is found. What could
//! still become a key is held back; of that, so much is shown after a moment that a prompt appears and little of a key does.
//! Found is a whole key as it is, and as base64, in a URL and in JSON write it. This keeps accidents out of logs. A command
//! that means to show its key, backwards or a letter a line, can.

use aho_corasick::{AhoCorasick, Input, MatchKind};
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::{Zeroize as _, Zeroizing};

use crate::cli::{failure::Failure, variables::Given};

/// Of what could become a key, at most so many bytes are shown before it is known: what keys of one provider have in common.
const TELLS_NOTHING: usize = 8;
/// Nothing shorter than this is looked for.
const SHORTEST: usize = 12;

/// The forms of all keys, and who they are of.
struct Forms {
    automaton: AhoCorasick,
    all: Vec<(Zeroizing<Vec<u8>>, String)>,
    /// The bytes with which one begins.
    begins: [bool; 256],
    longest: usize,
    /// How much of what could become a key is shown when nothing follows.
    allowance: usize,
}

/// Masks one stream.
pub(super) struct Masker {
    forms: Forms,
    /// What is not decided yet, beginning where a key could begin.
    held: Vec<u8>,
    /// How much of that has been shown all the same.
    shown: usize,
}

impl Drop for Masker {
    fn drop(&mut self) {
        self.held.zeroize();
    }
}

impl Forms {
    #[expect(clippy::disallowed_methods, reason = "the key is looked for in what the command prints")]
    fn new<'a>(keys: impl IntoIterator<Item = &'a Given>) -> Result<Self, Failure> {
        let mut forms: Vec<(Zeroizing<Vec<u8>>, String)> = Vec::new();
        for given in keys {
            for form in written(given.key.expose()) {
                if form.len() >= SHORTEST && !forms.iter().any(|(known, _)| *known == form) {
                    forms.push((form, format!("[{} key]", given.provider)));
                }
            }
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(forms.iter().map(|(form, _)| form.as_slice()))
            .map_err(|error| Failure::because("the keys cannot be masked", &error))?;
        let mut begins = [false; 256];
        for (form, _) in &forms {
            begins[usize::from(form[0])] = true;
        }
        let longest = forms.iter().map(|(form, _)| form.len()).max().unwrap_or(0);
        let shortest = forms.iter().map(|(form, _)| form.len()).min().unwrap_or(0);
        Ok(Self { automaton, all: forms, begins, longest, allowance: TELLS_NOTHING.min(shortest / 4) })
    }

    /// The first place in `bytes` at or after `from` where what follows to the end is the beginning of a key and not all of it.
    fn open(&self, bytes: &[u8], from: usize) -> usize {
        let first = from.max(bytes.len().saturating_sub(self.longest.saturating_sub(1)));
        let may_become = |at: &usize| {
            let rest = &bytes[*at..];
            self.begins[usize::from(rest[0])]
                && self.all.iter().any(|(form, _)| form.len() > rest.len() && form.starts_with(rest))
        };
        (first..bytes.len()).find(may_become).unwrap_or(bytes.len())
    }
}

/// The ways in which a key is written.
fn written(key: &str) -> Vec<Zeroizing<Vec<u8>>> {
    let in_url = Zeroizing::new(utf8_percent_encode(key, UNRESERVED).to_string());
    let in_lower_url = Zeroizing::new(lower_escapes(&in_url));
    let in_json = Zeroizing::new(serde_json::Value::from(key).to_string());
    let inside = in_json.trim_start_matches('"');
    let inside = inside.strip_suffix('"').unwrap_or(inside);
    let mut forms: Vec<_> =
        [key, &*in_url, &*in_lower_url, inside].map(|form| Zeroizing::new(form.as_bytes().to_vec())).into();
    for shift in 0..3 {
        forms.extend([in_base64(&STANDARD, key, shift), in_base64(&URL_SAFE, key, shift)]);
    }
    forms
}

/// What a URL holds as it is.
const UNRESERVED: &percent_encoding::AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// `%2f` for `%2F`, as some write it.
fn lower_escapes(text: &str) -> String {
    let mut pieces = text.split('%');
    let mut lower = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (digits, rest) = piece.split_at(2.min(piece.len()));
        lower.push('%');
        lower.push_str(&digits.to_ascii_lowercase());
        lower.push_str(rest);
    }
    lower
}

/// The characters of a base64 text that this key alone decides, if so many bytes stand before it: whatever else is in there.
fn in_base64(engine: &impl base64::Engine, key: &str, shift: usize) -> Zeroizing<Vec<u8>> {
    let bytes = Zeroizing::new([vec![0; shift].as_slice(), key.as_bytes()].concat());
    let text = Zeroizing::new(engine.encode(&bytes));
    let (first, end) = ((shift * 8).div_ceil(6), bytes.len() * 8 / 6);
    Zeroizing::new(text.as_bytes()[first..end].to_vec())
}

impl Masker {
    /// For these keys.
    pub(super) fn new<'a>(keys: impl IntoIterator<Item = &'a Given>) -> Result<Self, Failure> {
        Ok(Self { forms: Forms::new(keys)?, held: Vec::new(), shown: 0 })
    }

    /// From now on what `next` masks is masked. What is undecided stays so.
    pub(super) fn follow(&mut self, mut next: Self) {
        std::mem::swap(&mut self.forms, &mut next.forms);
    }

    /// Takes what was printed, and adds to `out` what is decided by now.
    pub(super) fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.held.extend_from_slice(bytes);
        self.decide(out, false);
    }

    /// Nothing has followed for a moment: shows what is held back if it tells nothing of a key.
    pub(super) fn pause(&mut self, out: &mut Vec<u8>) {
        if self.held.len() <= self.forms.allowance {
            out.extend_from_slice(&self.held[self.shown..]);
            self.shown = self.held.len();
        }
    }

    /// Nothing will follow.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        self.decide(out, true);
    }

    /// Whether something waits to be shown by a [`Self::pause`].
    pub(super) fn waits(&self) -> bool {
        self.held.len() > self.shown && self.held.len() <= self.forms.allowance
    }

    fn decide(&mut self, out: &mut Vec<u8>, is_end: bool) {
        let (mut from, mut shown) = (0, self.shown);
        let open = loop {
            let open = if is_end { self.held.len() } else { self.forms.open(&self.held, from) };
            // A key that could be the beginning of a longer one is not decided either.
            let found = self.forms.automaton.find(Input::new(&self.held).span(from..self.held.len()));
            let Some(found) = found.filter(|found| found.start() < open) else { break open };
            out.extend_from_slice(&self.held[shown.min(found.start())..found.start()]);
            out.extend_from_slice(self.forms.all[found.pattern()].1.as_bytes());
            from = found.end();
            shown = from.max(shown);
        };
        if shown < open {
            out.extend_from_slice(&self.held[shown..open]);
        }
        self.shown = shown.max(open) - open;
        self.held[..open].zeroize();
        self.held.drain(..open);
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;

    use super::*;
    use crate::secret::Secret;

    const OPENAI: &str = "sk-proj-CANARY0123456789abcdef";
    const ANTHROPIC: &str = "sk-ant-api03-CANARY'\"/+$abcdef";

    fn given(provider: &str, key: &str) -> Given {
        let provider: crate::model::Provider = provider.parse().unwrap();
        Given { variable: provider.env_variable(), provider, key: Secret::new(key).into() }
    }

    fn masker() -> Masker {
        Masker::new(&[given("openai", OPENAI), given("anthropic", ANTHROPIC)]).unwrap()
    }

    /// What is shown of `pieces`, with a pause after each if `pauses`.
    fn shown(pieces: &[&[u8]], pauses: bool) -> Vec<u8> {
        through(&mut masker(), pieces, pauses)
    }

    fn through(masker: &mut Masker, pieces: &[&[u8]], pauses: bool) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in pieces {
            masker.feed(piece, &mut out);
            if pauses {
                masker.pause(&mut out);
            }
        }
        masker.finish(&mut out);
        out
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    #[test]
    fn a_key_is_found_wherever_it_is_cut() {
        let printed = format!("a {OPENAI} b {ANTHROPIC}{OPENAI}\nsk-proj-CANARY s").into_bytes();
        let expected = "a [openai key] b [anthropic key][openai key]\nsk-proj-CANARY s";
        let mut masker = masker();
        for first in 0..printed.len() {
            for second in first..printed.len() {
                let pieces = [&printed[..first], &printed[first..second], &printed[second..]];
                assert_eq!(
                    text(&through(&mut masker, &pieces, false)),
                    expected,
                    "cut at {first} and {second}"
                );
            }
        }
        let single: Vec<_> = printed.chunks(1).collect();
        assert_eq!(text(&through(&mut masker, &single, false)), expected);
    }

    #[test]
    fn a_key_that_comes_slowly_shows_no_more_than_its_kind() {
        for at in 0..OPENAI.len() {
            let out = text(&shown(&[&OPENAI.as_bytes()[..at], &OPENAI.as_bytes()[at..]], true));
            let begun = out.strip_suffix("[openai key]").unwrap();
            assert!(begun.len() <= TELLS_NOTHING && OPENAI.starts_with(begun), "cut at {at}: {out}");
        }
        let slowly: Vec<_> = OPENAI.as_bytes().chunks(1).collect();
        let out = text(&shown(&slowly, true));
        assert!(out.len() <= TELLS_NOTHING + "[openai key]".len() && out.ends_with("[openai key]"), "{out}");
    }

    #[test]
    fn a_prompt_appears_after_a_moment() {
        let (mut masker, mut out) = (masker(), Vec::new());
        masker.feed(b"Password for sk", &mut out);
        assert_eq!(text(&out), "Password for ");
        assert!(masker.waits());
        masker.pause(&mut out);
        assert_eq!(text(&out), "Password for sk");
        assert!(!masker.waits());
        masker.feed(b"i: ", &mut out);
        assert_eq!(text(&out), "Password for ski: ");
    }

    #[test]
    fn what_is_no_key_passes_as_it_is() {
        let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        for size in [1, 7, 4096, 100_000] {
            let pieces: Vec<_> = bytes.chunks(size).collect();
            assert_eq!(shown(&pieces, true), bytes);
        }
    }

    #[test]
    fn a_key_is_found_as_others_write_it() {
        for (provider, key) in [("openai", OPENAI), ("anthropic", ANTHROPIC)] {
            let name = format!("[{provider} key]");
            let in_url = utf8_percent_encode(key, NON_ALPHANUMERIC).to_string().replace("%2D", "-");
            let forms = [
                in_url.clone(),
                in_url.replace("%2F", "%2f").replace("%2B", "%2b"),
                serde_json::json!({ "key": key }).to_string(),
                STANDARD.encode(key),
                STANDARD.encode(format!(":{key}")),
                STANDARD.encode(format!("me:{key} and more")),
                URL_SAFE.encode(format!("user:{key}")),
            ];
            for form in forms {
                let out = text(&shown(&[form.as_bytes()], false));
                assert!(out.contains(&name) && out.len() < name.len() + 24, "{form}: {out}");
                assert!(!out.contains("CANARY"), "{out}");
            }
        }
    }

    #[test]
    fn of_two_keys_that_begin_alike_the_longer_is_meant() {
        let longer = format!("{OPENAI}-and-more");
        let keys = [given("openai", OPENAI), given("groq", &longer)];
        let shown = |pieces: &[&str]| {
            let (mut masker, mut out) = (Masker::new(&keys).unwrap(), Vec::new());
            for piece in pieces {
                masker.feed(piece.as_bytes(), &mut out);
            }
            masker.finish(&mut out);
            text(&out)
        };
        assert_eq!(shown(&[&longer]), "[groq key]");
        assert_eq!(shown(&[OPENAI, "-and-more"]), "[groq key]");
        assert_eq!(shown(&[OPENAI, "-and-less"]), "[openai key]-and-less");
        assert_eq!(shown(&[OPENAI]), "[openai key]");
    }
}
