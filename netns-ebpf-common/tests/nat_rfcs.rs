//! The sheet of NAT clauses is complete, and every test it names exists.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const SHEET: &str = include_str!("../docs/nat-rfcs.md");

/// Every clause there is, by document.
const CLAUSES: [(&str, &str, &str); 5] = [
    ("RFC 4787", "REQ-", "1 2 3 3a 4 5 5a 5b 5c 6 6a 7 8 8a 9 9a 10 10a 11 12 12a 12b 13 13a 14 14a"),
    ("RFC 5382", "REQ-", "1 2 2a 3 3a 3b 4 4a 5 5a 6 7 8 8a 9 10"),
    ("RFC 5508", "REQ-", "1 1a 2 2a 3 3a 3b 3c 3d 4 4a 4b 4c 5 5a 5b 5c 6 7 7a 8 9 10 10a 10b 10c 10d 10e 10f 11"),
    ("RFC 7857", "section ", "2 2.1 2.2 3 4 5 6 7 7.1 8 9 10 11 12"),
    ("RFC 5961", "section ", "3.2 4.2 5.2 9.1 9.2 9.3"),
];

/// A row of the sheet.
struct Row {
    clause: String,
    level: String,
    /// By default, and with endpoint-independent mapping and filtering.
    standing: [String; 2],
    why: String,
    tests: Vec<String>,
}

/// The rows below each heading.
fn rows() -> BTreeMap<String, Vec<Row>> {
    let mut sections = BTreeMap::new();
    for section in SHEET.split("\n# ").skip(1) {
        let (title, body) = section.split_once('\n').expect("a heading");
        let document = title.split(':').next().expect("a title").to_owned();
        let rows = body.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| Clause"));
        let rows = rows.map(|line| {
            let cells: Vec<_> = line
                .trim_start_matches('|')
                .strip_suffix('|')
                .expect("a row")
                .split('|')
                .map(|cell| cell.trim().to_owned())
                .collect();
            let [clause, level, _, default, independent, why, tests] = cells.as_slice() else {
                panic!("seven cells: {line}")
            };
            let tests = tests.split('`').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect();
            let [clause, level, default, independent, why] =
                [clause, level, default, independent, why].map(Clone::clone);
            let standing = [default, independent];
            Row { clause, level, standing, why, tests }
        });
        sections.insert(document, rows.collect());
    }
    sections
}

#[test]
fn every_clause_is_there_once_and_in_order() {
    let sections = rows();
    assert_eq!(sections.len(), CLAUSES.len());
    for (document, prefix, numbers) in CLAUSES {
        let listed: Vec<_> = sections[document].iter().map(|row| row.clause.clone()).collect();
        let wanted: Vec<_> = numbers.split(' ').map(|n| format!("{prefix}{n}")).collect();
        assert_eq!(listed, wanted, "{document}");
    }
}

#[test]
fn every_row_says_where_it_stands_and_why_or_by_which_test() {
    for (document, rows) in rows() {
        for Row { clause, level, standing, why, tests } in rows {
            let at = format!("{document} {clause}");
            let choices: &[&str] = match level.as_str() {
                "MAY" => &["used", "not used"],
                "MUST" | "MUST NOT" | "SHOULD" | "SHOULD NOT" | "RECOMMENDED" => &["met", "not met", "n/a"],
                other => panic!("{at}: no level: {other}"),
            };
            let is = |what: &str| standing.iter().any(|s| s == what);
            assert!(standing.iter().all(|s| choices.contains(&s.as_str())), "{at}: {standing:?}, of {choices:?}");
            assert!(!is("met") || !tests.is_empty(), "{at}: nothing shows that it is met");
            assert!(!(is("not met") || is("n/a")) || why.len() > 10, "{at}: why?");
            // What is not met is shown as well: the reader sees what happens instead.
            assert!(!is("not met") || !tests.is_empty(), "{at}: no test shows what happens instead");
        }
    }
}

#[test]
fn every_test_it_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned();
    let places = ["userspace/tests", "netns-ebpf-common/src", "userspace/src"].map(|place| root.join(place));
    let mut named = 0;
    for (document, rows) in rows() {
        for Row { clause, tests, .. } in rows {
            for test in tests {
                let (file, name) = test.split_once("::").unwrap_or_else(|| panic!("{document} {clause}: {test}"));
                let found: Vec<PathBuf> =
                    places.iter().map(|place| place.join(format!("{file}.rs"))).filter(|path| path.is_file()).collect();
                let has = |path: &PathBuf| fs::read_to_string(path).expect("a source").contains(&format!("fn {name}("));
                assert!(found.iter().any(has), "{document} {clause}: there is no {test}, looked in {found:?}");
                named += 1;
            }
        }
    }
    assert!(named > 60, "only {named} tests are named");
}
