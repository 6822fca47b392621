//! How busy the machine is.

/// Returns the number of processes and threads that run or could run now, without this one; `None` if the system does
/// not tell.
pub(crate) fn running() -> Option<usize> {
    parse(&text()?)
}

/// Returns the load average of the last minute per processor; 0 where the system does not tell.
pub(crate) fn per_processor() -> f64 {
    let text = text().unwrap_or_default();
    let load: f64 = text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default();
    load / std::thread::available_parallelism().map_or(1, usize::from) as f64
}

fn text() -> Option<String> {
    std::fs::read_to_string("/proc/loadavg").ok()
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
