//! The normal form of Python 3 source: its tokens, without comments, docstrings and meaningless layout.
//!
//! What remains, each with a tag and its length in front:
//!
//! - names, keywords, numbers and operators as written;
//! - the end of each logical line, and each step of indentation to the right and to the left, whatever its width;
//! - strings and bytes by their value, so quotes, prefixes and escapes do not count; but f-strings, t-strings and
//!   strings with a `\N{...}` as written. Adjacent strings stay separate.
//!
//! What does not remain: comments, blank lines, spaces between tokens, line breaks in brackets and after a
//! backslash, line endings, a byte order mark, and docstrings. A docstring is a string, alone on its logical line, that
//! is the first statement of the module, of a class or of a function. Where it is the whole body, a token takes its
//! place. Trailing commas and redundant brackets are tokens like others.
//!
//! Two files with equal normal forms differ at most in `__doc__`, line numbers and source text as the running
//! program sees them. Django does not read a migration's `__doc__`; Alembic prints it in its log and history.
//!
//! This is a lexer of our own since each Python parser on crates.io brings 75 to 95 crates, and none promises that
//! its tokens stay the same, on which fingerprints would depend. It refuses what it does not know for certain: source
//! that is not UTF-8 or declares another encoding, unknown characters, unbalanced brackets, inconsistent
//! indentation, f-strings that end differently before and after Python 3.12.

use std::collections::BTreeMap;

/// A token that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// End of a logical line.
    Newline,
    /// A block begins.
    Indent,
    /// A block ends.
    Dedent,
    /// Name or keyword.
    Name(String),
    /// Number as written.
    Number(String),
    /// Operator or delimiter.
    Operator(&'static str),
    /// Value of a string: its code points, which may be surrogates.
    Text(Vec<u32>),
    /// Value of a bytes literal.
    Bytes(Vec<u8>),
    /// Literal as written.
    Verbatim(String),
    /// Body that consists of a docstring.
    OnlyDocstring,
}

/// Returns the normal form of a source text; `None` if it is not certain.
pub(super) fn normal(source: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(source).ok()?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.contains('\0') {
        return None;
    }
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    if !is_declared_utf8(&text) {
        return None;
    }
    Some(encode(&without_docstrings(Lexer::new(&text).tokens()?)))
}

fn encode(tokens: &[Token]) -> Vec<u8> {
    let mut to = Vec::new();
    for token in tokens {
        let (tag, content): (u8, Vec<u8>) = match token {
            Token::Newline => (0, Vec::new()),
            Token::Indent => (1, Vec::new()),
            Token::Dedent => (2, Vec::new()),
            Token::Name(name) => (3, name.clone().into_bytes()),
            Token::Number(number) => (4, number.clone().into_bytes()),
            Token::Operator(operator) => (5, operator.as_bytes().to_vec()),
            Token::Text(points) => (6, points.iter().flat_map(|point| point.to_le_bytes()).collect()),
            Token::Bytes(bytes) => (7, bytes.clone()),
            Token::Verbatim(text) => (8, text.clone().into_bytes()),
            Token::OnlyDocstring => (9, Vec::new()),
        };
        to.push(tag);
        to.extend((content.len() as u64).to_le_bytes());
        to.extend(content);
    }
    to
}

/// Whether no comment in the first two lines declares an encoding other than UTF-8 (PEP 263).
fn is_declared_utf8(text: &str) -> bool {
    let comments = text.lines().take(2).filter_map(|line| {
        let line = line.trim_start_matches([' ', '\t', '\x0c']);
        line.strip_prefix('#')
    });
    // A line may hold several words `coding`; each must be harmless.
    comments.flat_map(|comment| comment.split("coding").skip(1)).all(|after| {
        let Some(name) = after.strip_prefix([':', '=']) else {
            return true;
        };
        let name = name.trim_start_matches([' ', '\t']);
        let end = name.find(|c: char| !(c.is_alphanumeric() || matches!(c, '-' | '_' | '.')));
        let name = name[..end.unwrap_or(name.len())].to_lowercase().replace('_', "-");
        name.is_empty() || matches!(name.as_str(), "utf-8" | "utf8")
    })
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    /// Closing brackets that are missing.
    brackets: Vec<char>,
    /// Widths of the open blocks: with tabs to multiples of 8, and with tabs of 1. Only indentation that is the same
    /// by both is certain.
    widths: Vec<(usize, usize)>,
    tokens: Vec<Token>,
}

/// Longest first.
const OPERATORS: [&str; 48] = [
    "**=", "//=", ">>=", "<<=", "...", "**", "//", ">>", "<<", "<=", ">=", "==", "!=", "<>", "->", "+=",
    "-=", "*=", "/=", "%=", "&=", "|=", "^=", "@=", ":=", "+", "-", "*", "/", "%", "@", "&", "|", "^", "~",
    "<", ">", "(", ")", "[", "]", "{", "}", ",", ":", ".", ";", "=",
];

impl<'a> Lexer<'a> {
    fn new(text: &'a str) -> Self {
        Lexer { text, at: 0, brackets: Vec::new(), widths: vec![(0, 0)], tokens: Vec::new() }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn tokens(mut self) -> Option<Vec<Token>> {
        let mut line_begins = true;
        while self.at < self.text.len() {
            if line_begins {
                line_begins = !self.indentation()?;
                continue;
            }
            let rest = self.rest();
            let c = self.peek()?;
            match c {
                ' ' | '\t' | '\x0c' => self.at += 1,
                '#' => self.comment(),
                '\n' => {
                    self.at += 1;
                    if self.brackets.is_empty() {
                        self.tokens.push(Token::Newline);
                        line_begins = true;
                    }
                }
                '\\' => {
                    // At the end of the file it is an error.
                    let joined = rest.strip_prefix("\\\n").filter(|next| !next.is_empty())?;
                    self.at = self.text.len() - joined.len();
                }
                '"' | '\'' => self.string("")?,
                c if c.is_ascii_digit() => self.number(),
                '.' if rest[1..].starts_with(|c: char| c.is_ascii_digit()) => self.number(),
                c if c == '_' || c.is_alphabetic() => self.name()?,
                _ => self.operator()?,
            }
        }
        if !self.brackets.is_empty() {
            return None;
        }
        if self.tokens.last().is_some_and(|last| !matches!(last, Token::Newline | Token::Dedent)) {
            self.tokens.push(Token::Newline);
        }
        for _ in 1..self.widths.len() {
            self.tokens.push(Token::Dedent);
        }
        Some(self.tokens)
    }

    fn comment(&mut self) {
        self.at += self.rest().find('\n').unwrap_or(self.rest().len());
    }

    /// Reads the indentation of a line. Returns whether a logical line begins here; if not, the line was blank.
    fn indentation(&mut self) -> Option<bool> {
        let (mut wide, mut narrow) = (0, 0);
        while let Some(c) = self.peek() {
            match c {
                ' ' => (wide, narrow) = (wide + 1, narrow + 1),
                '\t' => (wide, narrow) = (wide / 8 * 8 + 8, narrow + 1),
                '\x0c' => (wide, narrow) = (0, 0),
                _ => break,
            }
            self.at += 1;
        }
        match self.peek() {
            None => return Some(false),
            Some('\n') => {
                self.at += 1;
                return Some(false);
            }
            Some('#') => {
                self.comment();
                return Some(false);
            }
            // Python joins the indentation of both lines.
            Some('\\') => return None,
            Some(_) => {}
        }
        let (known_wide, known_narrow) = *self.widths.last()?;
        if wide > known_wide {
            if narrow <= known_narrow {
                return None;
            }
            self.widths.push((wide, narrow));
            self.tokens.push(Token::Indent);
            return Some(true);
        }
        while self.widths.last()?.0 > wide {
            self.widths.pop();
            self.tokens.push(Token::Dedent);
        }
        (*self.widths.last()? == (wide, narrow)).then_some(true)
    }

    fn number(&mut self) {
        let rest = self.rest();
        let is_decimal = !rest.starts_with("0x") && !rest.starts_with("0X");
        let mut before = ' ';
        let end = rest.find(|c: char| {
            let exponent = is_decimal && matches!(before, 'e' | 'E') && matches!(c, '+' | '-');
            let goes_on = c.is_ascii_alphanumeric() || matches!(c, '_' | '.') || exponent;
            before = c;
            !goes_on
        });
        let number = &rest[..end.unwrap_or(rest.len())];
        self.at += number.len();
        self.tokens.push(Token::Number(number.to_owned()));
    }

    /// A name, or a string with a prefix.
    fn name(&mut self) -> Option<()> {
        let rest = self.rest();
        let end = rest.find(|c: char| !(c == '_' || c.is_alphanumeric())).unwrap_or(rest.len());
        let name = &rest[..end];
        self.at += end;
        if rest[end..].starts_with(['"', '\'']) {
            match name.to_ascii_lowercase().as_str() {
                // Python 2.
                "ur" => return None,
                prefix @ ("r" | "u" | "b" | "br" | "rb" | "f" | "fr" | "rf" | "t" | "tr" | "rt") => {
                    return self.string(prefix);
                }
                _ => {}
            }
        }
        self.tokens.push(Token::Name(name.to_owned()));
        Some(())
    }

    fn operator(&mut self) -> Option<()> {
        let operator = OPERATORS.into_iter().find(|operator| self.rest().starts_with(operator))?;
        match operator {
            "(" | "[" | "{" => self.brackets.push(closing(self.peek()?)),
            ")" | "]" | "}" => {
                let open = self.brackets.pop()?;
                operator.starts_with(open).then_some(())?;
            }
            _ => {}
        }
        self.at += operator.len();
        self.tokens.push(Token::Operator(operator));
        Some(())
    }

    /// Reads the literal whose quotes begin here, after its prefix.
    fn string(&mut self, prefix: &str) -> Option<()> {
        let rest = self.rest();
        let (quotes, end) = plain_end(rest)?;
        let body = &rest[quotes..end - quotes];
        let begin = self.at - prefix.len();
        self.at += end;
        let is_raw = prefix.contains('r');
        let verbatim = || Token::Verbatim(self.text[begin..self.at].to_owned());
        let token = if prefix.contains(['f', 't']) {
            if formatted_end(rest, is_raw)? != end {
                return None;
            }
            verbatim()
        } else if prefix.contains('b') {
            body.is_ascii().then_some(())?;
            let value = if is_raw { Some(body.bytes().map(u32::from).collect()) } else { value(body, true)? };
            match value.map(|points| points.into_iter().map(u8::try_from).collect()) {
                Some(Ok(bytes)) => Token::Bytes(bytes),
                // An octal escape above 255.
                _ => verbatim(),
            }
        } else if is_raw {
            Token::Text(body.chars().map(u32::from).collect())
        } else {
            value(body, false)?.map_or_else(verbatim, Token::Text)
        };
        self.tokens.push(token);
        Some(())
    }
}

fn closing(open: char) -> char {
    match open {
        '(' => ')',
        '[' => ']',
        _ => '}',
    }
}

/// Returns the length of the quotes at the start of `text`, and the length of the literal if quotes after a backslash
/// do not end it and all others do.
fn plain_end(text: &str) -> Option<(usize, usize)> {
    let quote = text.chars().next()?;
    let triple = quote.to_string().repeat(3);
    let quotes = if text.starts_with(&triple) { 3 } else { 1 };
    let mut chars = text.char_indices().skip(quotes);
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => drop(chars.next()?),
            '\n' if quotes == 1 => return None,
            c if c == quote && quotes == 1 => return Some((1, at + 1)),
            c if c == quote && text[at..].starts_with(&triple) => return Some((3, at + 3)),
            _ => {}
        }
    }
    None
}

/// Returns the length of a formatted literal as Python 3.12 reads it: expressions in braces may contain any quotes.
/// `None` if it is in doubt.
fn formatted_end(text: &str, is_raw: bool) -> Option<usize> {
    let quote = text.chars().next()?;
    let triple = quote.to_string().repeat(3);
    let quotes = if text.starts_with(&triple) { 3 } else { 1 };
    let mut at = quotes;
    // Brackets open in the expression; empty in the text of the literal.
    let mut open: Vec<char> = Vec::new();
    loop {
        let rest = &text[at..];
        let c = rest.chars().next()?;
        if open.is_empty() {
            match c {
                c if c == quote && (quotes == 1 || rest.starts_with(&triple)) => return Some(at + quotes),
                // A name between braces follows.
                '\\' if !is_raw && rest[1..].starts_with('N') => return None,
                '\\' if rest[1..].starts_with(['{', '}']) => at += 1,
                '\\' => at += 1 + rest[1..].chars().next()?.len_utf8(),
                '{' if rest[1..].starts_with('{') => at += 2,
                '}' if rest[1..].starts_with('}') => at += 2,
                '{' => {
                    open.push('}');
                    at += 1;
                }
                '}' => return None,
                '\n' if quotes == 1 => return None,
                c => at += c.len_utf8(),
            }
            continue;
        }
        match c {
            // The text of a format, with its own rules, follows; a lambda, a slice and `!=` are no matter here.
            ':' | '!' if open.len() == 1 => {
                let is_plain = |c: char| c.is_ascii_alphanumeric() || "<>=^+- #0,._%!:".contains(c);
                let format = &rest[1..];
                let end = format.find(|c| !is_plain(c))?;
                format[end..].starts_with('}').then_some(())?;
                at += 1 + end;
            }
            // A comment, a line break in a short literal, and a backslash are new in 3.12.
            '#' | '\\' => return None,
            '\n' if quotes == 1 => return None,
            '"' | '\'' => {
                let (_, end) = plain_end(rest)?;
                let before = text[..at].chars().rev().take_while(char::is_ascii_alphabetic);
                let mut before = before.map(|c| c.to_ascii_lowercase());
                // Perhaps a formatted literal in this one.
                if before.any(|c| matches!(c, 'f' | 't')) && formatted_end(rest, is_raw)? != end {
                    return None;
                }
                at += end;
            }
            '(' | '[' | '{' => {
                open.push(closing(c));
                at += 1;
            }
            ')' | ']' | '}' => {
                (open.pop()? == c).then_some(())?;
                at += 1;
            }
            c => at += c.len_utf8(),
        }
    }
}

/// Returns the value of the body of a literal that is not raw. `Some(None)` if only Python's table of characters knows
/// it; `None` if the literal is invalid.
fn value(body: &str, is_bytes: bool) -> Option<Option<Vec<u32>>> {
    let mut points = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c != '\\' {
            points.push(u32::from(c));
            continue;
        }
        let escape = rest.chars().next()?;
        let after = &rest[escape.len_utf8()..];
        let hex = |digits: usize| {
            let digits = after.get(..digits)?;
            let is_hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
            is_hex.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
        };
        let (point, length) = match escape {
            '\n' => {
                rest = after;
                continue;
            }
            '\\' | '\'' | '"' => (u32::from(escape), 1),
            'a' => (7, 1),
            'b' => (8, 1),
            'f' => (12, 1),
            'n' => (10, 1),
            'r' => (13, 1),
            't' => (9, 1),
            'v' => (11, 1),
            '0'..='7' => {
                let length = rest.bytes().take(3).take_while(|b| (b'0'..=b'7').contains(b)).count();
                (u32::from_str_radix(&rest[..length], 8).ok()?, length)
            }
            'x' => (hex(2)?, 3),
            'u' if !is_bytes => (hex(4)?, 5),
            'U' if !is_bytes => (hex(8).filter(|point| *point <= 0x10_ffff)?, 9),
            'N' if !is_bytes => return Some(None),
            // An unknown escape stays as it is.
            _ => (u32::from('\\'), 0),
        };
        points.push(point);
        rest = &rest[length..];
    }
    Some(Some(points))
}

/// Removes the docstrings.
fn without_docstrings(tokens: Vec<Token>) -> Vec<Token> {
    let body = bodies(&tokens);
    let mut kept = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        let strings = tokens[at..].iter().take_while(|token| matches!(token, Token::Text(_))).count();
        let is_alone = strings > 0 && tokens.get(at + strings) == Some(&Token::Newline);
        match body.get(&at).filter(|_| is_alone) {
            None => {
                kept.push(tokens[at].clone());
                at += 1;
            }
            Some(Body::Inline) => {
                kept.push(Token::OnlyDocstring);
                at += strings;
            }
            Some(Body::Block) => {
                at += strings + 1;
                if tokens.get(at) == Some(&Token::Dedent) {
                    kept.push(Token::OnlyDocstring);
                }
            }
        }
    }
    kept
}

enum Body {
    /// In the same line as its header.
    Inline,
    /// In lines of its own.
    Block,
}

/// Returns where the bodies begin that may have a docstring.
fn bodies(tokens: &[Token]) -> BTreeMap<usize, Body> {
    let is_name = |at: usize, name: &str| matches!(tokens.get(at), Some(Token::Name(n)) if n == name);
    let mut found = BTreeMap::from([(0, Body::Block)]);
    for at in 0..tokens.len() {
        let begins = at == 0 || matches!(tokens[at - 1], Token::Newline | Token::Indent | Token::Dedent);
        let has_docstring =
            is_name(at, "def") || is_name(at, "class") || is_name(at, "async") && is_name(at + 1, "def");
        if !(begins && has_docstring) {
            continue;
        }
        let mut depth = 0_usize;
        let line = tokens[at..].iter().take_while(|token| **token != Token::Newline);
        for (number, token) in line.enumerate() {
            match token {
                Token::Operator("(" | "[" | "{") => depth += 1,
                Token::Operator(")" | "]" | "}") => depth -= 1,
                Token::Operator(":") if depth == 0 => {
                    let next = at + number + 1;
                    match tokens.get(next..next + 2) {
                        Some([Token::Newline, Token::Indent]) => found.insert(next + 2, Body::Block),
                        _ => found.insert(next, Body::Inline),
                    };
                    break;
                }
                _ => {}
            }
        }
    }
    found
}
