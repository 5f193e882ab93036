//! `keydesk doctor`: what is wrong between this machine and the desk, in words.

use std::fmt::Write as _;

use super::{
    failure::{Failure, one_line},
    output::Output,
    yours::Whose,
};
use crate::client::{self, Environment, Finding, Verdict};

pub(super) async fn run(whose: Whose, out: Output) -> Result<(), Failure> {
    let found = client::examine(&whose.choice(), &Environment::capture()).await;
    out.object(&found, told(&found).trim_end())?;
    if found.iter().any(|finding| finding.verdict == Verdict::Wrong) {
        // What there is to say has been said.
        return Err(Failure::Ended { line: None, code: 1 });
    }
    Ok(())
}

fn told(found: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { check, verdict, what, advice } in found {
        let mark = match verdict {
            Verdict::Well => "well ",
            Verdict::Note => "note ",
            Verdict::Wrong => "WRONG",
        };
        let _ = writeln!(text, "{mark}  {check:<12}{}", one_line(what));
        if let Some(advice) = advice {
            let _ = writeln!(text, "                   -> {}", one_line(advice));
        }
    }
    text
}
