//! Tables for the user: one line for each row where the output is no terminal, else as wide as the terminal.

use anstyle::Style;
use textwrap::core::display_width;

use super::escape;
use super::screen::{wrap, wrap_cell};

/// A column.
pub(super) struct Column {
    head: &'static str,
    /// Below this its cells are not broken; `None`: never.
    least: Option<usize>,
    /// Those with the highest number are left out first; 0: never.
    spare: u8,
}

impl Column {
    /// A column whose cells are never broken.
    pub(super) const fn whole(head: &'static str) -> Self {
        Column { head, least: None, spare: 0 }
    }

    /// A column whose cells may take several lines, each at least `least` wide.
    pub(super) const fn broken(head: &'static str, least: usize) -> Self {
        Column { head, least: Some(least), spare: 0 }
    }

    /// Lets the column be left out where there is no room; that with the highest number first.
    pub(super) const fn spare(mut self, spare: u8) -> Self {
        self.spare = spare;
        self
    }
}

/// What a cell holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A cell in colour.
    pub(super) fn painted(text: impl Into<String>, style: Style) -> Self {
        Cell { text: text.into(), style }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Cell::painted(text, Style::new())
    }
}

/// How a text is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Columns of the terminal; `None` if there is none.
    pub(super) width: Option<usize>,
    /// Whether to use colour.
    pub(super) color: bool,
}

impl Look {
    /// Words that fit.
    pub(super) fn wrap(self, text: &str) -> String {
        match self.width {
            Some(width) => wrap(text, width),
            None => text.to_owned(),
        }
    }
}

/// Spaces between columns, if there is room for them.
const GAP: usize = 2;

/// A table. A cell stays in its row, whatever it holds.
pub(super) fn table<const N: usize>(columns: &[Column; N], rows: &[[Cell; N]], look: Look) -> String {
    let rows: Vec<[Cell; N]> = rows
        .iter()
        .map(|row| row.clone().map(|cell| Cell { text: escape::line(&cell.text).into_owned(), ..cell }))
        .collect();
    let natural: [usize; N] = std::array::from_fn(|i| {
        let cells = rows.iter().map(|row| display_width(&row[i].text));
        let head = display_width(columns[i].head);
        cells.chain([head]).max().unwrap_or_default()
    });
    let (widths, gap) = match look.width {
        None => (natural.map(Some), GAP),
        Some(width) => layout(columns, &natural, width),
    };
    let head = columns.each_ref().map(|column| Cell::from(column.head));
    let mut text = String::new();
    for row in std::iter::once(&head).chain(&rows) {
        push_row(&mut text, row, &widths, gap, look.color);
    }
    let missing: Vec<&str> = columns
        .iter()
        .zip(&widths)
        .filter(|(_, width)| width.is_none())
        .map(|(column, _)| column.head)
        .collect();
    if !missing.is_empty() {
        let note = format!("(no room for {}: `--json` shows all)\n", missing.join(", ").to_lowercase());
        text += &look.wrap(&note);
    }
    text
}

/// The width of each column, `None` if it is left out, and the space between them.
fn layout<const N: usize>(
    columns: &[Column; N],
    natural: &[usize; N],
    width: usize,
) -> ([Option<usize>; N], usize) {
    let least: [usize; N] = std::array::from_fn(|i| {
        let least = columns[i].least.unwrap_or(usize::MAX);
        natural[i].min(least)
    });
    let mut shown = [true; N];
    let taken = |shown: &[bool; N], widths: &[usize; N], gap: usize| {
        let count = shown.iter().filter(|s| **s).count();
        let cells: usize = (0..N).filter(|i| shown[*i]).map(|i| widths[i]).sum();
        cells + gap * count.saturating_sub(1)
    };
    let gap = loop {
        if let Some(gap) = (1..=GAP).rev().find(|gap| taken(&shown, &least, *gap) <= width) {
            break gap;
        }
        let spare = (0..N).filter(|i| shown[*i] && columns[*i].spare > 0);
        match spare.max_by_key(|i| columns[*i].spare) {
            Some(i) => shown[i] = false,
            // The minimum.
            None => break 1,
        }
    };
    // The remaining width goes to the narrowest column that needs more.
    let mut widths = least;
    let mut left = width.saturating_sub(taken(&shown, &widths, gap));
    while left > 0 {
        let wanting = (0..N).filter(|i| shown[*i] && widths[*i] < natural[*i]);
        let Some(i) = wanting.min_by_key(|i| widths[*i]) else {
            break;
        };
        widths[i] += 1;
        left -= 1;
    }
    (std::array::from_fn(|i| shown[i].then_some(widths[i])), gap)
}

fn push_row<const N: usize>(
    text: &mut String,
    row: &[Cell; N],
    widths: &[Option<usize>; N],
    gap: usize,
    color: bool,
) {
    let cells: Vec<(usize, Vec<String>, Style)> = row
        .iter()
        .zip(widths)
        .filter_map(|(cell, width)| {
            let width = (*width)?;
            let lines = match display_width(&cell.text) <= width {
                true => vec![cell.text.clone()],
                false => wrap_cell(&cell.text, width),
            };
            Some((width, lines, cell.style))
        })
        .collect();
    let height = cells.iter().map(|(_, lines, _)| lines.len()).max();
    for n in 0..height.unwrap_or_default() {
        // Spaces are written once something follows them.
        let mut owed = 0;
        for (width, lines, style) in &cells {
            let part = lines.get(n).map_or("", String::as_str);
            if !part.is_empty() {
                text.extend(std::iter::repeat_n(' ', owed));
                owed = 0;
                match color {
                    true => *text += &format!("{style}{part}{style:#}"),
                    false => *text += part,
                }
            }
            owed += width.saturating_sub(display_width(part)) + gap;
        }
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 4] = [
        Column::broken("NAME", 6),
        Column::whole("STATE"),
        Column::broken("HOLDER", 6),
        Column::whole("SIZE").spare(1),
    ];

    fn rows() -> Vec<[Cell; 4]> {
        let row = |cells: [&str; 4]| cells.map(Cell::from);
        vec![
            row(["shop_app_a1b2c3", "leased", "pid 17, me on here", "11.0 MB"]),
            row(["x", "warm", "-", "4 kB"]),
        ]
    }

    fn at(width: Option<usize>) -> String {
        let color = false;
        table(&COLUMNS, &rows(), Look { width, color })
    }

    #[test]
    fn without_a_terminal_a_row_is_a_line() {
        let expected = "\
NAME             STATE   HOLDER              SIZE
shop_app_a1b2c3  leased  pid 17, me on here  11.0 MB
x                warm    -                   4 kB
";
        assert_eq!(at(None), expected);
        assert_eq!(at(Some(80)), expected);
    }

    #[test]
    fn cells_are_broken_before_columns_go() {
        let expected = "\
NAME       STATE   HOLDER     SIZE
shop_app_  leased  pid 17,    11.0 MB
a1b2c3             me on
                   here
x          warm    -          4 kB
";
        assert_eq!(at(Some(37)), expected);
        let expected = "\
NAME       STATE   HOLDER
shop_app_  leased  pid 17,
a1b2c3             me on
                   here
x          warm    -
(no room for size: `--json`
  shows all)
";
        assert_eq!(at(Some(27)), expected);
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for width in 22..120 {
            for line in at(Some(width)).lines() {
                assert!(display_width(line) <= width, "{width}: {line:?}");
                assert_eq!(line.trim_end(), line);
            }
        }
    }

    #[test]
    fn colour_is_only_there_where_it_is_wanted() {
        let red = anstyle::AnsiColor::Red.on_default();
        let columns = [Column::broken("STATE", 6), Column::whole("SIZE")];
        let rows = [[Cell::painted("broken, pinned", red), "1 byte".into()]];
        let look = |width, color| table(&columns, &rows, Look { width, color });
        assert!(!look(None, false).contains('\x1b'));
        // Each line by itself, and only the words.
        assert_eq!(
            look(Some(15), true),
            "STATE    SIZE\n\x1b[31mbroken,\x1b[0m  1 byte\n\x1b[31mpinned\x1b[0m\n"
        );
    }

    #[test]
    fn a_cell_stays_in_its_row() {
        let rows = [["a\nb".into(), Cell::default()]];
        let columns = [Column::whole("A"), Column::whole("B")];
        let look = Look { width: None, color: false };
        assert_eq!(table(&columns, &rows, look), "A     B\na\\nb\n");
    }
}
