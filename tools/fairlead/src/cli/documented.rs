//! The documents against the command line: what they tell a person to type is understood, and every command is told of.

use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use super::Cli;

/// What stands for a placeholder of the documents.
const SAMPLES: &[(&str, &str)] = &[
    ("ADDRESS", "192.0.2.1"),
    ("ADDRESS%INTERFACE", "fe80::1%eth0"),
    ("ADDRESS:PORT", "127.0.0.1:80"),
    ("CLIENT", "192.0.2.1:4000"),
    ("COMMAND", "status"),
    ("COUNT", "5"),
    ("ENDPOINT", "shop/front-0"),
    ("FILE", "file.yaml"),
    ("INTERFACE", "eth1"),
    ("KIND:NAME", "tap:t0"),
    ("LINES", "20"),
    ("N", "100"),
    ("NAME", "lab"),
    ("NAMESPACE", "shop"),
    ("PORT", "80"),
    ("PREFIX", "10.1.0.0/16"),
    ("PROTOCOL", "tcp"),
    ("REASON", "ip4-no-route"),
    ("SECONDS", "5"),
    ("SERVICE", "10.96.0.1:80"),
    ("SHELL", "bash"),
    ("TEXT", "eth1"),
];

/// README.md and docs/*.md, with their texts.
fn documents() -> Vec<(PathBuf, String)> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let docs = std::fs::read_dir(top.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> =
        docs.filter(|path| path.extension().is_some_and(|end| end == "md")).collect();
    paths.push(top.join("README.md"));
    paths.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// Lines of code blocks, with what is continued joined, and without the prompt of a shell.
fn code_lines(text: &str) -> Vec<String> {
    let joined = text.replace("\\\n", " ");
    let mut within = false;
    let code = joined.lines().filter(|line| {
        let is_fence = line.starts_with("```");
        within ^= is_fence;
        within && !is_fence
    });
    code.map(|line| line.trim_start_matches(['#', '$', ' ']).to_owned()).collect()
}

/// What is between single backticks outside of code blocks.
fn code_spans(text: &str) -> Vec<String> {
    let mut within = false;
    let prose = text.lines().filter(|line| {
        within ^= line.starts_with("```");
        !within
    });
    prose.flat_map(|line| line.split('`').skip(1).step_by(2)).map(|span| span.replace("\\|", "|")).collect()
}

/// The words of a command of a shell; what follows it on its line is left out.
fn words(line: &str) -> Vec<String> {
    let line = line.split(" #").next().unwrap_or_default();
    let all = line.split_ascii_whitespace().take_while(|word| !matches!(*word, ">" | "|" | "&"));
    all.map(|word| word.trim_matches('"').to_owned()).collect()
}

/// All that a synopsis stands for: without what is in brackets, and with each of it; every one of its alternatives.
fn meant(synopsis: &str) -> Vec<String> {
    let Some((before, rest)) = synopsis.split_once('[') else { return alternatives(synopsis) };
    let mut depth = 1_usize;
    let end = rest.find(|c| {
        depth = depth + usize::from(c == '[') - usize::from(c == ']');
        depth == 0
    });
    let (optional, after) = rest.split_at(end.unwrap_or_else(|| panic!("`{synopsis}` has no `]`")));
    let after = &after[1..];
    let with = meant(optional).into_iter().flat_map(|optional| meant(&format!("{before}{optional}{after}")));
    meant(&format!("{before}{after}")).into_iter().chain(with).collect()
}

/// `a b|c` is `a b` and `a c`; a placeholder is what stands for it, and an ellipsis one more of what is before it.
fn alternatives(command: &str) -> Vec<String> {
    let mut all = vec![String::new()];
    for word in command.split_ascii_whitespace() {
        let word = if word == "..." { "ADDRESS" } else { word.trim_end_matches("...") };
        let choices: Vec<&str> = word.split('|').map(sample).collect();
        all =
            all.iter().flat_map(|one| choices.iter().map(move |choice| format!("{one} {choice}"))).collect();
    }
    all
}

fn sample(word: &str) -> &str {
    let known = SAMPLES.iter().find(|(placeholder, _)| *placeholder == word);
    let is_placeholder = word.len() > 1 && word.chars().all(|c| c.is_ascii_uppercase() || ":%".contains(c));
    assert!(known.is_some() || !is_placeholder, "nothing stands for {word}");
    known.map_or(word, |(_, sample)| sample)
}

/// What is wrong with a command without its first word. A synopsis may leave out what it does not speak of.
fn fault(line: &str, may_lack: bool) -> Option<String> {
    let lacks = [ErrorKind::MissingRequiredArgument, ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand];
    match Cli::try_parse_from(std::iter::once("fairlead".to_owned()).chain(words(line))) {
        Err(error) if error.kind() == ErrorKind::DisplayHelp => None,
        Err(error)
            if may_lack
                && (lacks.contains(&error.kind()) || error.kind() == ErrorKind::MissingSubcommand) =>
        {
            None
        }
        Err(error) => Some(error.to_string()),
        Ok(_) => None,
    }
}

#[test]
fn every_command_line_of_the_documents_is_understood() {
    let mut seen = 0;
    for (path, text) in documents() {
        let lines = code_lines(&text);
        for line in lines.iter().filter_map(|line| line.strip_prefix("fairlead ")) {
            assert_eq!(fault(line, false), None, "{}: {line}", path.display());
            seen += 1;
        }
        let spans = code_spans(&text);
        for line in spans.iter().filter_map(|span| span.strip_prefix("fairlead ")).flat_map(meant) {
            assert_eq!(fault(&line, true), None, "{}: {line}", path.display());
            seen += 1;
        }
    }
    assert!(seen > 40, "only {seen} command lines are found");
}

/// What docs/cli.md lists: one command in each, with the first word that those after it in the row leave out.
fn listed() -> Vec<String> {
    let text = documents().into_iter().find(|(path, _)| path.ends_with("cli.md")).expect("docs/cli.md").1;
    let section = text.split("\n## ").find(|section| section.starts_with("Commands")).expect("a section");
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let commands = rows.flat_map(|row| {
        // A vertical bar within code is escaped.
        let spans = code_spans(row.replace("\\|", "\u{1}").split('|').nth(1).unwrap_or_default());
        let spans: Vec<String> = spans.iter().map(|span| span.replace('\u{1}', "|")).collect();
        let group = spans[0].split(' ').next().unwrap_or_default().to_owned();
        let known: Vec<String> =
            Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect();
        let whole = move |span: String| {
            let is_command = known.iter().any(|name| span.split(' ').next() == Some(name));
            if is_command { span } else { format!("{group} {span}") }
        };
        spans.into_iter().map(whole).collect::<Vec<_>>()
    });
    commands.collect()
}

#[test]
fn the_list_of_commands_is_understood_and_complete() {
    let listed = listed();
    for line in listed.iter().flat_map(|synopsis| meant(synopsis)) {
        assert_eq!(fault(&line, true), None, "{line}");
    }
    for command in Cli::command().get_subcommands() {
        let mut inner = command.get_subcommands().peekable();
        let one = command.get_name().to_owned();
        let all = if inner.peek().is_none() {
            vec![one]
        } else {
            inner.map(|inner| format!("{one} {}", inner.get_name())).collect()
        };
        for name in all {
            let is_it = |line: &&String| **line == name || line.starts_with(&format!("{name} "));
            assert!(listed.iter().any(|line| is_it(&line)), "docs/cli.md does not list `{name}`");
        }
    }
}

#[test]
fn a_synopsis_means_all_that_it_says() {
    let all = meant("flows [-f] [--verdict allow|deny] [-d [REASON]] FILE...");
    for one in [
        " flows file.yaml",
        " flows -f file.yaml",
        " flows --verdict deny file.yaml",
        " flows -d ip4-no-route file.yaml",
    ] {
        assert!(all.iter().any(|line| line == one), "{one} is not in {all:?}");
    }
    assert!(fault("flows -n shop --namespace", false).is_some());
    assert_eq!(words("get config > gw1.yaml"), ["get", "config"]);
}
