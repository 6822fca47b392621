//! Times by name, in rounds.

use std::time::Duration;

/// What was measured: for each name one number in each round.
#[derive(Default)]
pub(crate) struct Samples {
    columns: Vec<(&'static str, Vec<f64>)>,
}

impl Samples {
    /// Notes a time of the present round, in ms.
    pub(crate) fn add(&mut self, name: &'static str, time: Duration) {
        let ms = time.as_secs_f64() * 1e3;
        match self.columns.iter_mut().find(|(n, _)| *n == name) {
            Some((_, column)) => column.push(ms),
            None => self.columns.push((name, vec![ms])),
        }
    }

    /// All times of that name, by round.
    pub(crate) fn of(&self, name: &str) -> Option<&[f64]> {
        let (_, column) = self.columns.iter().find(|(n, _)| *n == name)?;
        Some(column)
    }

    /// The median in ms.
    pub(crate) fn median(&self, name: &str) -> Option<f64> {
        self.of(name).map(median)
    }

    /// The median of (sum of `over` ÷ sum of `under`) within rounds.
    pub(crate) fn ratio(&self, over: &[&str], under: &[&str]) -> Option<f64> {
        let sum = |names: &[&str]| {
            let columns: Option<Vec<_>> = names.iter().map(|n| self.of(n)).collect();
            let columns = columns?;
            let rounds = columns.iter().map(|c| c.len()).min()?;
            let sums = (0..rounds).map(|i| columns.iter().map(|c| c[i]).sum());
            Some(sums.collect::<Vec<f64>>())
        };
        let ratios: Vec<f64> = sum(over)?.iter().zip(sum(under)?).map(|(a, b)| a / b).collect();
        Some(median(&ratios))
    }
}

/// The middle one; of an even number the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let upper = values[values.len() / 2];
    match values.len() % 2 {
        1 => upper,
        _ => f64::midpoint(values[values.len() / 2 - 1], upper),
    }
}

/// Milliseconds for a table: with a digit behind the point where it says something.
pub(crate) fn ms(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(value) if value < 20.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.0}"),
    }
}

/// A ratio for a table.
pub(crate) fn times(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(value) if value >= 20.0 => format!("{value:.0}"),
        Some(value) if value >= 5.0 => format!("{value:.1}"),
        Some(value) if value >= 0.1 => format!("{value:.2}"),
        Some(value) => format!("{value:.3}"),
    }
}
