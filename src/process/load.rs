//! How busy the machine is.

/// Returns the number of processes and threads that run or could run now, without this one; `None` if the system does
/// not tell.
pub(crate) fn running() -> Option<usize> {
    parse(&std::fs::read_to_string("/proc/loadavg").ok()?)
}

/// Reads the fourth word, such as `3/412` (<https://man7.org/linux/man-pages/man5/proc_loadavg.5.html>).
fn parse(text: &str) -> Option<usize> {
    let (running, _) = text.split_whitespace().nth(3)?.split_once('/')?;
    Some(running.parse::<usize>().ok()?.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reader_does_not_count() {
        assert_eq!(parse("0.42 0.31 0.20 3/412 8123\n"), Some(2));
        assert_eq!(parse("0.42 0.31 0.20 1/412 8123\n"), Some(0));
        assert_eq!(parse(""), None);
    }
}
