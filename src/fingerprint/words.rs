//! Finds the words of the build command that may name files: `build_inputs`.
//!
//! Parses the shell's grammar as far as file names need it: quotes, operators, redirections, `cd`, and
//! commands within words (`bash -c '...'`, `$(...)`). A part that is not supported only misses a file, or
//! names one that does not exist; the walk checks whether a word names a text file of the tree.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::recipe::RelPath;

/// Returns the paths below `root` that words of the shell command name, whether the files exist or not.
pub(super) fn named(root: &Path, command: &str) -> BTreeSet<RelPath> {
    let mut found = BTreeSet::new();
    let mut reader = Reader { root, found: &mut found, depth: 0 };
    reader.read(&here_is_dot(command), Path::new(""));
    found
}

/// Replaces the current directory in its common notations by `.`: commands run in the root.
fn here_is_dot(command: &str) -> String {
    let mut text = command.to_owned();
    for here in ["${PWD}", "$PWD", "$(pwd)", "`pwd`"] {
        text = text.replace(here, ".");
    }
    text
}

/// Maximum depth of commands within commands.
const DEPTH: usize = 4;

struct Reader<'a> {
    root: &'a Path,
    found: &'a mut BTreeSet<RelPath>,
    depth: usize,
}

impl Reader<'_> {
    /// Reads a command. `here`: the directory in which it starts, relative to the root.
    fn read(&mut self, command: &str, here: &Path) {
        let mut here = here.to_owned();
        // A subshell's `cd` ends with the subshell.
        let mut outer = Vec::new();
        for simple in simple_commands(command) {
            match simple {
                Piece::Open => outer.push(here.clone()),
                Piece::Close => here = outer.pop().unwrap_or(here),
                Piece::Command(words) => self.simple(&words, &mut here),
            }
        }
    }

    fn simple(&mut self, words: &[Word], here: &mut PathBuf) {
        let program = words.iter().find(|word| !is_assignment(word));
        let text = |word: &Word| word.literal.then(|| word.text.clone());
        match program.and_then(text).as_deref() {
            Some("cd" | "pushd") => {
                let to = words.iter().rfind(|word| !word.text.starts_with('-'));
                if let Some(to) = to.filter(|to| to.literal && to.text != "cd") {
                    here.push(&to.text);
                }
            }
            // `tee` writes the files that it names.
            Some("tee") => {}
            _ => words.iter().for_each(|word| self.word(word, here)),
        }
    }

    fn word(&mut self, word: &Word, here: &Path) {
        let text = word.text.as_str();
        if word.literal {
            self.path(text, here);
            // `--config=x.ini`, `SETTINGS=x.ini`, `-fx.sql`
            if let Some((_, value)) = text.split_once('=') {
                self.path(value, here);
            } else if text.len() > 2 && text.starts_with('-') && text.is_char_boundary(2) {
                self.path(&text[2..], here);
            }
        }
        if self.depth < DEPTH && text.contains([' ', '\t', '\n', ';']) {
            self.depth += 1;
            self.read(text, here);
            self.depth -= 1;
        }
    }

    fn path(&mut self, text: &str, here: &Path) {
        if text.is_empty() || text.contains('\0') {
            return;
        }
        if let Some(path) = below(self.root, &here.join(text)) {
            self.found.insert(RelPath::new(&path));
        }
    }
}

/// Returns the path relative to the root, without `.` and `..`; `None` if it is not below the root.
fn below(root: &Path, path: &Path) -> Option<PathBuf> {
    let path = path.strip_prefix(root).unwrap_or(path);
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !clean.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!clean.as_os_str().is_empty()).then_some(clean)
}

fn is_assignment(word: &Word) -> bool {
    let name = word.text.split_once('=').map(|(name, _)| name);
    name.is_some_and(|name| {
        !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

/// A word without its quotes.
#[derive(Debug, Default)]
struct Word {
    text: String,
    /// Whether the command sees exactly this text: the shell expands nothing in it.
    literal: bool,
}

enum Piece {
    Command(Vec<Word>),
    Open,
    Close,
}

/// Splits a command at its operators.
fn simple_commands(command: &str) -> Vec<Piece> {
    let mut scan = Scan::default();
    let mut chars = command.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                let word = scan.open_word();
                word.text.extend(chars.by_ref().take_while(|c| *c != '\''));
            }
            '"' => quoted(&mut chars, scan.open_word()),
            '\\' => match chars.next() {
                Some('\n') | None => {}
                Some(c) => scan.open_word().text.push(c),
            },
            '#' if scan.word.is_none() => {
                chars.by_ref().take_while(|c| *c != '\n').for_each(drop);
                scan.end_command();
            }
            '<' | '>' => {
                scan.redirect(c == '>');
                while let Some(more) = chars.next_if(|c| matches!(c, '<' | '>' | '|' | '&')) {
                    scan.output |= more == '>';
                }
            }
            '&' if chars.peek() == Some(&'>') => scan.end_word(),
            '$' if chars.peek() == Some(&'(') => {
                chars.next();
                scan.end_command();
                scan.pieces.push(Piece::Open);
            }
            '(' => {
                scan.end_command();
                scan.pieces.push(Piece::Open);
            }
            ')' => {
                scan.end_command();
                scan.pieces.push(Piece::Close);
            }
            ';' | '&' | '|' | '\n' | '`' => scan.end_command(),
            ' ' | '\t' | '\r' => scan.end_word(),
            '$' => {
                let word = scan.open_word();
                word.literal = false;
                word.text.push('$');
            }
            c => scan.open_word().text.push(c),
        }
    }
    scan.end_command();
    scan.pieces
}

/// Reads the rest of a double-quoted string.
fn quoted(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, word: &mut Word) {
    while let Some(c) = chars.next() {
        match c {
            '"' => return,
            '\\' => match chars.next() {
                Some('\n') | None => {}
                Some(c @ ('"' | '\\' | '$' | '`')) => word.text.push(c),
                Some(c) => word.text.extend(['\\', c]),
            },
            '$' | '`' => {
                word.literal = false;
                word.text.push(c);
            }
            c => word.text.push(c),
        }
    }
}

#[derive(Default)]
struct Scan {
    pieces: Vec<Piece>,
    words: Vec<Word>,
    word: Option<Word>,
    /// The next word names a file that is written.
    output: bool,
}

impl Scan {
    fn open_word(&mut self) -> &mut Word {
        self.word.get_or_insert_with(|| Word { text: String::new(), literal: true })
    }

    fn end_word(&mut self) {
        if let Some(word) = self.word.take()
            && !std::mem::take(&mut self.output)
        {
            self.words.push(word);
        }
    }

    fn redirect(&mut self, output: bool) {
        // The number of a descriptor is not a word.
        if self.word.as_ref().is_some_and(|w| w.text.chars().all(|c| c.is_ascii_digit())) {
            self.word = None;
        }
        self.end_word();
        self.output = output;
    }

    fn end_command(&mut self) {
        self.end_word();
        self.output = false;
        if !self.words.is_empty() {
            self.pieces.push(Piece::Command(std::mem::take(&mut self.words)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(command: &str) -> Vec<String> {
        let found = named(Path::new("/home/me/shop"), command);
        found.iter().map(RelPath::to_string).collect()
    }

    /// Returns the names that contain a dot; programs and options are words, too.
    fn files(command: &str) -> Vec<String> {
        let mut names = names(command);
        names.retain(|name| name.contains('.'));
        names
    }

    #[test]
    fn every_word_may_name_a_file() {
        assert_eq!(names("./migrate.sh"), ["migrate.sh"]);
        assert_eq!(names("python manage.py migrate"), ["manage.py", "migrate", "python"]);
        assert_eq!(files("sh 'a.sh' \"b.sh\" c\\.sh d'e.s'h"), ["a.sh", "b.sh", "c.sh", "de.sh"]);
        // A command may be one word, and so may a file name.
        assert_eq!(files("'my script.sh'"), ["my script.sh", "script.sh"]);
        assert_eq!(files("bin/../scripts//x.py"), ["scripts/x.py"]);
        assert_eq!(files("/home/me/shop/x.sh /etc/y.sh ../z.sh"), ["x.sh"]);
        assert_eq!(files("\"$PWD/x.sh\" ${PWD}/y.sh $(pwd)/z.sh"), ["x.sh", "y.sh", "z.sh"]);
        assert_eq!(names(""), [""; 0]);
    }

    #[test]
    fn operators_end_words() {
        let all = ["a.sh", "b.sh", "c.sh", "d.sh", "e.sh", "f.sh"];
        assert_eq!(files("(./a.sh;./b.sh)&&./c.sh||./d.sh|./e.sh\n./f.sh"), all);
        assert_eq!(files("./a.sh # not ./b.sh\n./c.sh"), ["a.sh", "c.sh"]);
        assert_eq!(files("./a.sh#b"), ["a.sh#b"]);
    }

    #[test]
    fn what_is_read_counts_and_what_is_written_does_not() {
        assert_eq!(files("psql <in.sql >out.log 2>err.log"), ["in.sql"]);
        assert_eq!(files("psql < in.sql >> out.log 2>&1 -f more.sql"), ["in.sql", "more.sql"]);
        assert_eq!(files("./a.sh &> out.log; ./b.sh >| c.log"), ["a.sh", "b.sh"]);
        assert_eq!(files("./a.sh | tee out.log"), ["a.sh"]);
    }

    #[test]
    fn options_and_assignments_hold_names() {
        assert_eq!(files("x --config=a.ini -fb.sql"), ["--config=a.ini", "-fb.sql", "a.ini", "b.sql"]);
        assert_eq!(files("SETTINGS=a.cfg ./x.sh"), ["SETTINGS=a.cfg", "a.cfg", "x.sh"]);
    }

    #[test]
    fn cd_counts_for_what_follows_it() {
        assert_eq!(files("cd db && ./x.sh"), ["db/x.sh"]);
        assert_eq!(files("(cd db; ./x.sh); ./y.sh"), ["db/x.sh", "y.sh"]);
        assert_eq!(files("A=1 cd db/pg && cd .. && ./x.sh"), ["db/x.sh"]);
        assert_eq!(files("cd .. && ./x.sh"), [""; 0]);
    }

    #[test]
    fn commands_within_words_are_read() {
        assert_eq!(files("bash -c './a.sh && psql -f b.sql'"), ["a.sh", "a.sh && psql -f b.sql", "b.sql"]);
        assert_eq!(files("sh -c \"cd db; bash -c 'sh x.sh'\"").last().unwrap(), "db/x.sh");
        assert_eq!(files("x $(cat version.txt) `cat y.txt`"), ["version.txt", "y.txt"]);
        // The values that the shell expands are not known.
        assert_eq!(files("$HOME/x.sh \"$DIR/y.sh\""), [""; 0]);
    }
}
