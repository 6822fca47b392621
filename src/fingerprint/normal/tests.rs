use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

fn python(text: &str) -> Option<Vec<u8>> {
    of(Form::Python, text.as_bytes())
}

#[track_caller]
fn equal(a: &str, b: &str) {
    assert!(python(a).is_some(), "no normal form:\n{a}");
    assert_eq!(python(a), python(b), "\n{a}\n---\n{b}");
}

#[track_caller]
fn differ(a: &str, b: &str) {
    assert!(python(a).is_some(), "no normal form:\n{a}");
    assert!(python(b).is_some(), "no normal form:\n{b}");
    assert_ne!(python(a), python(b), "\n{a}\n---\n{b}");
}

#[test]
fn comments_and_layout_do_not_count() {
    equal("x = 1", "# about x\n\nx=1  # one\n\n");
    equal("x = 1\n", "\u{feff}x = 1\r\n");
    equal("f(1, 2)\n", "f(\n    1,  # first\n    2\n)\n");
    equal("x = 1 + 2\n", "x = 1 + \\\n  2\n");
    equal("if a:\n  b\n  if c:\n    d\n", "if a:\n\tb\n\n# no\n\tif c:\n\t\td");
    equal("if a:\n    b\n# at the left\n    c\n", "if a:\n    b\n    c\n");
    equal("if a:\n    b\n\x0c\nc\n", "if a:\n    b\nc\n");
    equal("#!/usr/bin/env python\n# -*- coding: utf-8 -*-\nx\n", "x\n");
}

#[test]
fn structure_counts() {
    differ("if a:\n    b\n    c\n", "if a:\n    b\nc\n");
    differ("if a:\n    if b:\n        c\n    d\n", "if a:\n    if b:\n        c\n        d\n");
    differ("if a: b\n", "if a:\n    b\n");
    differ("a\nb\n", "a; b\n");
    differ("f(a)\n(b)\n", "f(a)(b)\n");
    differ("[1, 2]\n", "[1, 2,]\n");
    differ("(a)\n", "a\n");
    differ("a b\n", "ab\n");
    differ("1 .x\n", "1.x\n");
    differ("a < -b\n", "a <- b - c\n");
    differ("x -= 1\n", "x - 1\n");
    differ("a <= b\n", "a << b\n");
    differ("x\n''\n", "x\n");
}

#[test]
fn strings_count_by_their_value() {
    equal("'a'\n", "\"a\"\n");
    equal("'it\\'s'\n", "\"it's\"\n");
    equal("x = '''a\nb'''\n", "x = \"a\\nb\"\n");
    equal("x = '''a\r\nb'''\n", "x = '''a\nb'''\n");
    equal("u'a'\n", "'a'\n");
    equal("r'\\d'\n", "'\\\\d'\n");
    equal("'\\d'\n", "'\\\\d'\n");
    equal("'\\x41\\101\\u0041\\U00000041'\n", "'AAAA'\n");
    equal("b'\\x41'\n", "B\"A\"\n");
    equal("x = 'a\\\nb'\n", "x = 'ab'\n");
    differ("x = b'a'\n", "x = 'a'\n");
    differ("x = r'\\n'\n", "x = '\\n'\n");
    differ("x = 'a' 'b'\n", "x = 'ab'\n");
    differ("x = f'{a}'\n", "x = '{a}'\n");
    differ("x = f'{a}'\n", "x = f'{b}'\n");
    differ("x = 'a #b'\n", "x = 'a #c'\n");
    differ("x = '\\N{DASH}'\n", "x = '\\N{BULLET}'\n");
    differ("x = '\\ud800'\n", "x = '\\ud801'\n");
    differ("x = b'\\u0041'\n", "x = b'A'\n");
    differ("x = '\\0'\n", "x = '\\x01'\n");
}

#[test]
fn docstrings_do_not_count() {
    equal("'''About.'''\nx = 1\n", "x = 1\n");
    equal("class A:\n    'a'\n    x = 1\n", "class A:\n    x = 1\n");
    equal(
        "async def f(a: int = {1: 2}[1]) -> None:\n    'a' 'b'\n\n    x\n",
        "async def f(a: int = {1: 2}[1]) -> None:\n    x\n",
    );
    equal("def f():\n    'one'\n", "def f():\n    \"\"\"Two.\"\"\"\n");
    equal("def f(): 'one'\n", "def f(): 'two'\n");
    equal(
        "class A:\n    def f(self):\n        'f'\n        return 1\n",
        "class A:\n    def f(self):\n        return 1\n",
    );
    // Strings that are no docstrings.
    differ("x = 1\n'a'\n", "x = 1\n'b'\n");
    differ("if a:\n    'a'\n", "if a:\n    'b'\n");
    differ("def f():\n    b'a'\n", "def f():\n    b'b'\n");
    differ("def f():\n    f'a'\n", "def f():\n    f'b'\n");
    differ("def f():\n    'a' % x\n", "def f():\n    'b' % x\n");
    differ("def f():\n    return 'a'\n", "def f():\n    return 'b'\n");
    differ("lambda: 'a'\n", "lambda: 'b'\n");
    differ("x = {\n'a':\n'b'}\n", "x = {\n'a':\n'c'}\n");
    differ("match x:\n    case 'a':\n        pass\n", "match x:\n    case 'b':\n        pass\n");
    differ("def f():\n    'a'\n", "def f():\n    pass\n");
    differ("'a'\n'b'\nx\n", "'b'\nx\n");
    differ("op.execute('a')\n", "op.execute('b')\n");
}

#[test]
fn what_is_in_doubt_has_no_normal_form() {
    for text in [
        "# coding: latin-1\nx\n",
        "\n# vim: set fileencoding=iso-8859-1 :\nx\n",
        "x = $1\n",
        "x = 'a\n",
        "x = '''a\n",
        "f(\n",
        "f(]\n",
        "f)\n",
        "if a:\n        b\n\tc\n",
        "if a:\n    b\n  c\n",
        "x = \\ 1\n",
        "x = 1 \\",
        "if a:\n    b\n\\\n    c\n",
        "x = '\\x4'\n",
        "x = b'ä'\n",
        "x = ur'a'\n",
        "x\0\n",
        "x =\u{a0}1\n",
        // Python before 3.12 reads these differently, or not at all.
        "f'{x['a']}'\n",
        "f'{x['  a']}'\n",
        "f'{x[\"}'\n",
        "f'{f\"{x[\"a\"]}\"}'\n",
        "f'{'\n",
        "f'''{x # }\n}'''\n",
    ] {
        assert_eq!(python(text), None, "{text}");
    }
    assert_eq!(of(Form::Python, b"x = '\xff'\n"), None);
    for text in [
        "f'{x:>10}{y!r}{z!s:%Y-%m-%d}{{}}'\n",
        "f'{x[\"a\"]} {f(\"}\")} \\n {a != b}'\n",
        "rf'\\d{x}\\{y}'\n",
        "f'''{\nx}\n'''\n",
        "f'{f\"{x}\"}'\n",
        "x = 1_000j + 0xFE-1 + 1e-5 + .5 + 1.\n",
        "@a\nclass ß(metaclass=b): ...\n",
        "x: int | None = (y := 1)\n",
    ] {
        assert!(python(text).is_some(), "{text}");
    }
}

#[test]
fn empty_sources_are_equal() {
    equal("", "# nothing\n\n");
    equal("", "    ");
    equal("", "'''Nothing.'''");
}

/// A program whose meaning is known, but not its layout.
#[derive(Clone, Debug, PartialEq)]
enum Statement {
    Expression(Expression),
    Assign(String, Expression),
    If(Expression, Vec<Statement>),
    Def(String, Vec<Statement>),
    Class(String, Vec<Statement>),
}

#[derive(Clone, Debug, PartialEq)]
enum Expression {
    Name(String),
    Number(u32),
    Text(String),
    Bytes(Vec<u8>),
    Binary(Box<Expression>, &'static str, Box<Expression>),
    Call(String, Vec<Expression>),
}

fn name() -> impl Strategy<Value = String> {
    "[abx_][a-c0-9_]{0,2}".prop_filter("no keyword", |name| name != "as")
}

fn expression() -> impl Strategy<Value = Expression> {
    let leaf = prop_oneof![
        name().prop_map(Expression::Name),
        (0..20u32).prop_map(Expression::Number),
        "[a-b#'\"\\\\\n\t {}é]{0,4}".prop_map(Expression::Text),
        prop::collection::vec(any::<u8>(), 0..3).prop_map(Expression::Bytes),
    ];
    leaf.prop_recursive(3, 8, 3, |inner| {
        let operator = prop::sample::select(vec!["+", "-", "**", "<", "<<", "<=", "==", "and", "in"]);
        prop_oneof![
            (inner.clone(), operator, inner.clone()).prop_map(|(a, operator, b)| Expression::Binary(
                a.into(),
                operator,
                b.into()
            )),
            (name(), prop::collection::vec(inner, 0..3)).prop_map(|(f, args)| Expression::Call(f, args)),
        ]
    })
}

fn statements() -> impl Strategy<Value = Vec<Statement>> {
    // A string alone on its line may be a docstring.
    let alone = expression().prop_filter("no docstring", |e| !matches!(e, Expression::Text(_)));
    let leaf = prop_oneof![
        alone.prop_map(Statement::Expression),
        (name(), expression()).prop_map(|(to, value)| Statement::Assign(to, value)),
    ];
    let statement = leaf.prop_recursive(3, 12, 3, |inner| {
        let body = prop::collection::vec(inner, 1..3);
        prop_oneof![
            (expression(), body.clone()).prop_map(|(test, body)| Statement::If(test, body)),
            (name(), body.clone()).prop_map(|(name, body)| Statement::Def(name, body)),
            (name(), body).prop_map(|(name, body)| Statement::Class(name, body)),
        ]
    });
    prop::collection::vec(statement, 1..4)
}

/// Writes a program in a layout that the numbers choose.
struct Writer<'a> {
    choices: &'a [u8],
    at: usize,
    text: String,
    step: &'static str,
    end: &'static str,
}

impl Writer<'_> {
    fn choose(&mut self, count: u8) -> u8 {
        self.at += 1;
        self.choices[self.at % self.choices.len()] % count
    }

    fn one_of(&mut self, texts: &[&'static str]) -> &'static str {
        let count = u8::try_from(texts.len()).unwrap();
        texts[usize::from(self.choose(count))]
    }

    fn write(program: &[Statement], choices: &[u8]) -> String {
        let mut writer = Writer { choices, at: 0, text: String::new(), step: "  ", end: "\n" };
        writer.step = writer.one_of(&["  ", "    ", "\t", "        "]);
        writer.end = writer.one_of(&["\n", "\r\n"]);
        writer.docstring("");
        writer.body(program, "");
        writer.text
    }

    fn docstring(&mut self, indent: &str) {
        if self.choose(3) == 0 {
            let text =
                self.one_of(&["'doc'", "\"\"\"Doc.\n  'more' # and\n\"\"\"", "r'a' \"b\"", "u'''x'''"]);
            self.text += indent;
            self.text += text;
            self.line_end();
        }
    }

    fn line_end(&mut self) {
        let end = self.one_of(&["", "  ", " # end", "\t#'"]);
        self.text += end;
        for _ in 0..=self.choose(2) {
            self.text += self.end;
        }
        if self.choose(4) == 0 {
            self.text += "   # a line: (\n";
        }
    }

    fn body(&mut self, statements: &[Statement], indent: &str) {
        for statement in statements {
            self.text += indent;
            let deeper = format!("{indent}{}", self.step);
            match statement {
                Statement::Expression(value) => {
                    self.expression(value, false);
                    self.line_end();
                }
                Statement::Assign(to, value) => {
                    self.text += to;
                    self.gap(false);
                    self.text.push('=');
                    self.gap(false);
                    self.expression(value, false);
                    self.line_end();
                }
                Statement::If(test, body) => {
                    self.text += "if ";
                    self.expression(test, false);
                    self.text.push(':');
                    self.line_end();
                    self.body(body, &deeper);
                }
                Statement::Def(name, body) | Statement::Class(name, body) => {
                    let word = if matches!(statement, Statement::Def(..)) { "def" } else { "class" };
                    self.text += &format!("{word} {name}(");
                    self.gap(true);
                    self.text += "):";
                    self.line_end();
                    self.docstring(&deeper);
                    self.body(body, &deeper);
                }
            }
        }
    }

    /// Space between two tokens that may do without.
    fn gap(&mut self, in_brackets: bool) {
        let gaps = ["", " ", "\t ", " \\\n ", "\n", " # in (brackets\n\n  "];
        let count = if in_brackets { 6 } else { 4 };
        let gap = self.one_of(&gaps[..count]);
        self.text += gap;
    }

    fn expression(&mut self, value: &Expression, in_brackets: bool) {
        match value {
            Expression::Name(name) => self.text += name,
            Expression::Number(number) => self.text += &number.to_string(),
            Expression::Text(text) => {
                let literal = self.literal(text.chars().map(u32::from).collect(), false);
                self.text += &literal;
            }
            Expression::Bytes(bytes) => {
                let literal = self.literal(bytes.iter().map(|b| u32::from(*b)).collect(), true);
                self.text += &literal;
            }
            Expression::Binary(a, operator, b) => {
                self.text.push('(');
                self.gap(true);
                self.expression(a, true);
                self.text.push(' ');
                self.gap(true);
                self.text += operator;
                self.text.push(' ');
                self.gap(true);
                self.expression(b, true);
                self.gap(true);
                self.text.push(')');
            }
            Expression::Call(f, arguments) => {
                self.text += f;
                self.gap(in_brackets);
                self.text.push('(');
                for argument in arguments {
                    self.gap(true);
                    self.expression(argument, true);
                    self.gap(true);
                    self.text.push(',');
                }
                self.gap(true);
                self.text.push(')');
            }
        }
    }

    fn literal(&mut self, points: Vec<u32>, is_bytes: bool) -> String {
        let quote = self.one_of(&["'", "\"", "'''", "\"\"\""]);
        let mut body = String::new();
        for point in points {
            let c = char::from_u32(point).unwrap();
            let is_plain =
                c == ' ' || c.is_ascii_alphanumeric() || "#{}".contains(c) || c == 'é' && !is_bytes;
            if is_plain && self.choose(4) != 0 {
                body.push(c);
                continue;
            }
            match self.choose(3) {
                0 if point < 0o1000 => body += &format!("\\{point:03o}"),
                1 if c == '\n' => body += "\\n",
                1 if matches!(c, '\'' | '"' | '\\') => body += &format!("\\{c}"),
                _ => body += &format!("\\x{point:02X}"),
            }
        }
        let prefix = match (is_bytes, self.choose(2)) {
            (true, 0) => "b",
            (true, _) => "B",
            (false, 0) => "",
            (false, _) => "U",
        };
        format!("{prefix}{quote}{body}{quote}")
    }
}

/// Changes one thing about a program.
fn change(program: &mut [Statement], at: Index) {
    fn leaves<'a>(value: &'a mut Expression, all: &mut Vec<&'a mut Expression>) {
        match value {
            Expression::Binary(a, _, b) => {
                leaves(a, all);
                leaves(b, all);
            }
            _ => all.push(value),
        }
    }
    fn all<'a>(
        body: &'a mut [Statement],
        found: &mut Vec<&'a mut Expression>,
        names: &mut Vec<&'a mut String>,
    ) {
        for statement in body {
            match statement {
                Statement::Expression(value) => leaves(value, found),
                Statement::Assign(to, value) => {
                    names.push(to);
                    leaves(value, found);
                }
                Statement::If(test, body) => {
                    leaves(test, found);
                    all(body, found, names);
                }
                Statement::Def(name, body) | Statement::Class(name, body) => {
                    names.push(name);
                    all(body, found, names);
                }
            }
        }
    }
    let (mut found, mut names) = (Vec::new(), Vec::new());
    all(program, &mut found, &mut names);
    let at = at.index(found.len() + names.len());
    if at >= found.len() {
        names[at - found.len()].push('q');
        return;
    }
    match &mut *found[at] {
        Expression::Name(name) | Expression::Call(name, _) => name.push('q'),
        Expression::Number(number) => *number += 1,
        Expression::Text(text) => text.push(' '),
        Expression::Bytes(bytes) => bytes.push(0),
        Expression::Binary(..) => unreachable!("not a leaf"),
    }
}

/// Moves the last statement of a block out of it.
fn unindent(body: &mut Vec<Statement>) -> bool {
    for at in 0..body.len() {
        if let Statement::If(_, inner) | Statement::Def(_, inner) | Statement::Class(_, inner) = &mut body[at]
        {
            if unindent(inner) {
                return true;
            }
            if inner.len() > 1 {
                let moved = inner.pop().unwrap();
                body.insert(at + 1, moved);
                return true;
            }
        }
    }
    false
}

fn operator(body: &mut [Statement]) -> bool {
    fn within(value: &mut Expression) -> bool {
        match value {
            Expression::Binary(_, operator, _) => {
                *operator = if *operator == "+" { "*" } else { "+" };
                true
            }
            Expression::Call(_, arguments) => arguments.iter_mut().any(within),
            _ => false,
        }
    }
    body.iter_mut().any(|statement| match statement {
        Statement::Expression(value) | Statement::Assign(_, value) => within(value),
        Statement::If(test, body) => within(test) || operator(body),
        Statement::Def(_, body) | Statement::Class(_, body) => operator(body),
    })
}

fn choices() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 1..40)
}

proptest! {
    #[test]
    fn another_layout_has_the_same_normal_form(program in statements(), a in choices(), b in choices()) {
        let (a, b) = (Writer::write(&program, &a), Writer::write(&program, &b));
        prop_assert!(python(&a).is_some(), "no normal form:\n{a}");
        prop_assert_eq!(python(&a), python(&b), "\n{}\n---\n{}", a, b);
    }

    #[test]
    fn another_program_has_another_normal_form(
        program in statements(), at in any::<Index>(), kind in 0..3u8, a in choices(), b in choices(),
    ) {
        let mut other = program.clone();
        let changed = match kind {
            0 => { change(&mut other, at); true }
            1 => unindent(&mut other),
            _ => operator(&mut other),
        };
        prop_assume!(changed && other != program);
        let (a, b) = (Writer::write(&program, &a), Writer::write(&other, &b));
        prop_assert!(python(&a).is_some() && python(&b).is_some(), "no normal form:\n{a}\n---\n{b}");
        prop_assert_ne!(python(&a), python(&b), "\n{}\n---\n{}", a, b);
    }

    #[test]
    fn no_source_is_too_strange(text in "[ab1'\"\\\\\n\t (){}\\[\\]#:.,=<>fbrN-]{0,30}") {
        python(&text);
    }
}
