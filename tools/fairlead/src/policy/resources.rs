//! Resources out of files and directories.

use std::path::{Path, PathBuf};

use policy::{Cluster, Inventory, Problem};

use crate::failure::{Failure, Message, Result};
use crate::manage::source::Document;

/// Directories within directories.
const MAX_DEPTH: usize = 32;

/// Reads all, and says everything that is wrong.
pub fn read(paths: &[PathBuf]) -> Result<Cluster> {
    let mut files = Vec::new();
    for path in paths {
        collect(path, 0, &mut files)?;
    }
    if files.is_empty() {
        return Err(Failure::operation("there is no file that ends in .yaml, .yml or .json"));
    }
    let mut documents = Vec::new();
    for file in files {
        documents.extend(Document::read_all(&file)?);
    }
    let mut inventory = Inventory::default();
    let mut wrong = Vec::new();
    for (index, document) in documents.iter().enumerate() {
        if let Err(problems) = inventory.add(index, &document.value()) {
            wrong.extend(problems.into_iter().map(|problem| (index, problem)));
        }
    }
    let built = inventory.build().map_err(|problems| wrong.extend(problems));
    let point_at = |(index, problem): (usize, Problem)| {
        documents.get(index).map(|document| document.point_at(&problem.pointer, &problem.message))
    };
    match built {
        Ok(cluster) if wrong.is_empty() => Ok(cluster),
        _ => {
            wrong.sort_by_key(|(index, _)| *index);
            let count = wrong.len();
            let details = wrong.into_iter().filter_map(point_at).collect();
            let what = if count == 1 {
                "a resource is not valid".into()
            } else {
                format!("{count} places are not valid")
            };
            Err(Failure::Invalid(Message::new(what).details(details)))
        }
    }
}

/// A file; or those below a directory whose names say YAML or JSON, in the order of their names.
fn collect(path: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    if path.as_os_str() == "-" || !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let unreadable =
        |error: std::io::Error| Failure::operation(format!("cannot read {}: {error}", path.display()));
    if depth > MAX_DEPTH {
        return Err(Failure::operation(format!("{} is nested too deep", path.display())));
    }
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        entries.push(entry.map_err(unreadable)?.path());
    }
    entries.sort();
    for entry in entries {
        let says = entry.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if entry.is_dir() || matches!(says, "yaml" | "yml" | "json") {
            collect(&entry, depth + 1, files)?;
        }
    }
    Ok(())
}
