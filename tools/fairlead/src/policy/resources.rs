//! Resources out of files and directories.

use std::path::PathBuf;

use policy::{Cluster, Inventory, Problem};

use crate::failure::{Failure, Message, Result};
use crate::manage::source::{Document, files};

/// Reads all, and says everything that is wrong.
pub fn read(paths: &[PathBuf]) -> Result<Cluster> {
    let mut documents = Vec::new();
    for file in files(paths)? {
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
