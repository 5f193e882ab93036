//! `keydesk man`: the manual, a page for each command, out of what `--help` says.
//!
//! The examples become a section of their own, set as they are typed, and the first page says what holds for all.

use std::{
    fs,
    io::{self, Write as _},
    path::PathBuf,
};

use clap::Command;
use clap_mangen::{
    Man,
    roff::{Roff, roman},
};

use super::{failure::Failure, output::Output};
use crate::version;

/// What holds for every command: the sections of the first page.
const OF_ALL: &[(&str, &[&str])] = &[
    (
        "EXIT STATUS",
        &["0 if what was asked for was done, 1 if it failed, 2 if the command line cannot be understood."],
    ),
    (
        "ENVIRONMENT",
        &[
            "KEYDESK_CONFIG names the configuration file, KEYDESK_DATA_DIR the data directory. Every key of the \
             configuration has such a variable: keydesk config check lists them with their values and where these came \
             from. Secrets are read from variables too, or with _FILE at the end of the name from a file.",
        ],
    ),
    (
        "FILES",
        &[
            "./keydesk.toml, the configuration; as a Debian package /etc/keydesk/keydesk.toml.",
            "./keydesk-data, the data directory; as a Debian package /var/lib/keydesk.",
        ],
    ),
];

/// `keydesk man [DIRECTORY]`.
pub(super) fn run(command: Command, out: Output, directory: Option<PathBuf>) -> Result<(), Failure> {
    // Each command's own `help` says nothing that its page does not.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let Some(directory) = directory else {
        let page = page(command).map_err(|error| Failure::because("cannot write the page", &error))?;
        return out.text(String::from_utf8_lossy(&page.text).into_owned());
    };
    let write = |pages: Vec<Page>| {
        fs::create_dir_all(&directory)?;
        pages.iter().try_for_each(|page| fs::write(directory.join(&page.file), &page.text))
    };
    let count = pages(command)
        .and_then(|pages| {
            let count = pages.len();
            write(pages).map(|()| count)
        })
        .map_err(|error| {
            Failure::because(format_args!("cannot write into {}", directory.display()), &error)
        })?;
    out.done(format_args!("{count} pages are in {}", directory.display()))
}

/// A page of the manual.
struct Page {
    file: String,
    text: Vec<u8>,
}

/// The page of a command, and those of the commands in it.
fn pages(command: Command) -> io::Result<Vec<Page>> {
    let mut found = Vec::new();
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        found.extend(pages(command.clone())?);
    }
    found.push(page(command)?);
    Ok(found)
}

fn page(command: Command) -> io::Result<Page> {
    let is_first = command.get_display_name().is_none_or(|name| name == command.get_name());
    let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let has_commands = command.has_subcommands();
    let man = Man::new(command);
    let file = man.get_filename();
    let title = file.trim_end_matches(".1");
    let version::Build { version, date, .. } = version::build();
    let mut text = Vec::new();
    // Not `render_title`, which leaves an empty date out, so that what comes after it takes its place.
    let date = date.unwrap_or_default();
    writeln!(text, r#".TH {title} 1 "{date}" "keydesk {version}" "Keydesk""#)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    if has_commands {
        man.render_subcommands_section(&mut text)?;
    }
    man.render_options_section(&mut text)?;
    let mut rest = Roff::default();
    literal(&mut rest, &examples);
    if is_first {
        for (heading, paragraphs) in OF_ALL {
            rest.control("SH", [*heading]);
            for (place, paragraph) in paragraphs.iter().enumerate() {
                if place > 0 {
                    rest.control("PP", []);
                }
                rest.text([roman(*paragraph)]);
            }
        }
    }
    rest.to_writer(&mut text)?;
    Ok(Page { file, text })
}

/// What stands below `--help`: examples and what is to be known with them, line by line as it is there.
fn literal(page: &mut Roff, text: &str) {
    if text.is_empty() {
        return;
    }
    // Where it says no more than that, the heading does.
    let text =
        ["Example:\n", "Examples:\n"].iter().find_map(|start| text.strip_prefix(start)).unwrap_or(text);
    page.control("SH", ["EXAMPLES"]).control("nf", []);
    for line in text.lines() {
        page.text([roman(line)]);
    }
    page.control("fi", []);
}
