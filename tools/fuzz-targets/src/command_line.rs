//! The command line that a loader hands over. What it names is a part of it, and blanks around words change nothing.

use kernel::command_line::CommandLine;

/// Reads `data`.
pub fn run(data: &[u8]) {
    let line = CommandLine::parse(data);
    for part in [line.token, line.config, line.unknown].into_iter().flatten() {
        assert!(!part.is_empty(), "nothing is named");
        assert!(data.windows(part.len()).any(|window| window == part.as_bytes()), "{part} is not there");
    }
    assert!(line.config.is_none_or(|config| config.starts_with('{')), "{:?} is no object", line.config);
    // After a configuration blanks are part of it.
    if line.config.is_none() && std::str::from_utf8(data).is_ok() {
        let wide = [b" ", data, b"  "].concat();
        assert_eq!(CommandLine::parse(&wide), line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_kept() {
        let mut kept = CommandLine::default();
        for input in crate::corpus::load("command_line").unwrap() {
            let line = CommandLine::parse(&input.data);
            assert_eq!(line.unknown.is_some(), input.name.contains("wrong"), "{}: {line:?}", input.name);
            kept.log = kept.log.or(line.log);
            kept.cores = kept.cores.or(line.cores);
            kept.crypto = kept.crypto.or(line.crypto);
            kept.crash = kept.crash.or(line.crash);
            kept.prefer_module |= line.prefer_module;
            kept.packed_rings |= line.packed_rings;
        }
        assert!(kept.log.is_some() && kept.cores.is_some() && kept.crypto.is_some() && kept.crash.is_some());
        assert!(kept.prefer_module && kept.packed_rings);
    }
}
