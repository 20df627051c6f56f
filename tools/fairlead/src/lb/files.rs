//! Services and endpoint slices out of files and directories.

use std::path::{Path, PathBuf};

use services::{Compiled, Fault, Objects, Site, compile};

use crate::failure::{Failure, Message, Result};
use crate::manage::source::Document;

/// What the files in a directory are told from others by.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// Reads and compiles all objects of some files and directories.
pub fn read(paths: &[PathBuf], site: &Site) -> Result<Compiled> {
    let mut documents = Vec::new();
    for path in paths {
        for file in files(path)? {
            documents.extend(Document::read_all(&file)?);
        }
    }
    let mut objects = Objects::default();
    let mut faults = Vec::new();
    for (number, document) in documents.iter().enumerate() {
        faults.extend(objects.add(number, &document.value()).err().unwrap_or_default());
    }
    if !faults.is_empty() {
        return Err(invalid(&documents, &faults));
    }
    compile(&objects, site).map_err(|faults| invalid(&documents, &faults))
}

/// The file itself, or those of a directory in the order of their names.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let unreadable = |error| Failure::operation(format!("cannot read {}: {error}", path.display()));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        let extension = file.extension().and_then(|extension| extension.to_str());
        if extension.is_some_and(|extension| EXTENSIONS.contains(&extension)) && file.is_file() {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(Failure::operation(format!("{} has no YAML and no JSON file", path.display())));
    }
    files.sort();
    Ok(files)
}

fn invalid(documents: &[Document], faults: &[Fault]) -> Failure {
    let show = |fault: &Fault| match documents.get(fault.document) {
        Some(document) => document.point_at(&fault.problem.pointer, &fault.problem.message),
        None => fault.to_string(),
    };
    let what = match faults.len() {
        1 => "a service or endpoint slice is not valid".to_owned(),
        count => format!("{count} faults in services and endpoint slices"),
    };
    Failure::Invalid(Message::new(what).details(faults.iter().map(show).collect()))
}
