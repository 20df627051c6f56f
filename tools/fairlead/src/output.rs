//! How things are shown: tables, JSON, YAML, colours. Everything goes through [`emit`], which tells a closed pipe.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};
use serde_json::Value;

use crate::cli::{ColourWhen, Format};
use crate::failure::{Failure, Result};

static COLOUR: AtomicBool = AtomicBool::new(false);

/// The colours used: red for what is wrong or removed, green for added, the rest for headings.
#[derive(Clone, Copy, Debug)]
pub enum Colour {
    /// Wrong, removed, down.
    Red,
    /// Added, up.
    Green,
    /// Attention.
    Yellow,
    /// Places and hints.
    Cyan,
    /// Headings.
    Bold,
    /// What matters less.
    Dim,
}

/// Moves the cursor to the corner and clears the screen.
pub const CLEAR: &str = "\x1b[H\x1b[2J";

/// Decides once whether colours are used.
pub fn choose_colour(when: ColourWhen) {
    let on = match when {
        ColourWhen::Always => true,
        ColourWhen::Never => false,
        ColourWhen::Auto => {
            std::env::var_os("NO_COLOR").is_none() && io::stdout().is_terminal() && io::stderr().is_terminal()
        }
    };
    COLOUR.store(on, Ordering::Relaxed);
}

/// `text` in a colour, where colours are on.
pub fn paint(colour: Colour, text: &str) -> String {
    if !COLOUR.load(Ordering::Relaxed) {
        return text.to_owned();
    }
    let code = match colour {
        Colour::Red => "31",
        Colour::Green => "32",
        Colour::Yellow => "33",
        Colour::Cyan => "36",
        Colour::Bold => "1",
        Colour::Dim => "2",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// Writes to standard output at once.
pub fn emit(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

/// Shows a value as JSON or YAML, or else as the text that `table` makes of it.
pub fn show(format: Format, value: &Value, table: impl FnOnce(&Value) -> String) -> Result<()> {
    match format {
        Format::Table => emit(&table(value)),
        Format::Json => emit(&json(value)),
        Format::Yaml => emit(&yaml(value)?),
    }
}

/// Indented JSON with a final newline.
pub fn json(value: &Value) -> String {
    format!("{value:#}\n")
}

/// YAML with a final newline.
pub fn yaml(value: &Value) -> Result<String> {
    let mut text = serde_saphyr::to_string(value)
        .map_err(|error| Failure::operation(format!("cannot write YAML: {error}")))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// A table without lines, as wide as its content. Columns whose name is in `right` are aligned to the right.
pub fn table(headings: &[&str], right: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    let _ =
        table.load_style(comfy_table::presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    let _ = table.set_header(headings.iter().map(|heading| Cell::new(heading.to_uppercase())));
    for row in rows {
        let _ = table.add_row(row);
    }
    for (index, heading) in headings.iter().enumerate() {
        let last = index + 1 == headings.len();
        if let Some(column) = table.column_mut(index) {
            let _ = column.set_padding((0, if last { 0 } else { 2 }));
            if right.contains(heading) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    let mut text: String = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    if let Some(end) = text.find('\n') {
        let heading = paint(Colour::Bold, &text[..end]);
        text.replace_range(..end, &heading);
    }
    text
}

/// A JSON value as the text of one table cell.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "-".into(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(", "),
        // A next hop: what matters is where it goes.
        Value::Object(hop) if hop.contains_key("address") => {
            let weight =
                hop.get("weight").filter(|weight| *weight != 1).map(|weight| format!("weight {weight}"));
            let parts = [hop.get("address").map(cell), hop.get("interface").map(cell), weight];
            parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}

/// A count per second with a decimal prefix: `1.50 M`.
pub fn rate(per_second: f64) -> String {
    match per_second {
        r if r >= 1e9 => format!("{:.2} G", r / 1e9),
        r if r >= 1e6 => format!("{:.2} M", r / 1e6),
        r if r >= 1e3 => format!("{:.2} k", r / 1e3),
        r if r >= 10.0 || r == 0.0 => format!("{r:.0}"),
        r => format!("{r:.1}"),
    }
}

/// Seconds as a person says them: `3d 4h`, `12m 5s`.
pub fn duration(seconds: u64) -> String {
    let (days, hours, minutes, rest) =
        (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest}s"),
        (0, 0, _) => format!("{minutes}m {rest}s"),
        (0, ..) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_aligns_its_columns() {
        let rows = vec![vec!["eth0".into(), "1".into()], vec!["e".into(), "12345".into()]];
        assert_eq!(
            table(&["name", "packets"], &["packets"], rows),
            "NAME  PACKETS\neth0        1\ne       12345\n"
        );
    }

    #[test]
    fn rates_and_durations_are_short() {
        assert_eq!(rate(0.0), "0");
        assert_eq!(rate(2.5), "2.5");
        assert_eq!(rate(1500.0), "1.50 k");
        assert_eq!(rate(14_880_000.0), "14.88 M");
        assert_eq!(duration(59), "59s");
        assert_eq!(duration(725), "12m 5s");
        assert_eq!(duration(3 * 86_400 + 4 * 3600), "3d 4h");
    }
}
