//! The numbered steps of README.md are those of the code, in its words.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Steps by number.
type Steps = BTreeMap<u32, String>;

#[test]
fn the_steps_of_the_readme_are_those_of_the_code() {
    let readme = fs::read_to_string(root().join("README.md")).expect("read README.md");
    let listed = lists(&readme);
    let mut numbered = BTreeSet::from(["stage/opening/mod.rs".to_owned()]);
    for entry in fs::read_dir(programs().join("path")).expect("read a directory") {
        let name = entry.expect("read a directory").file_name().into_string().expect("a name");
        let path = format!("path/{name}");
        if !of_code(&source(&path)).is_empty() {
            numbered.insert(path);
        }
    }
    assert!(numbered.len() >= 5, "only {numbered:?} have steps");
    assert_eq!(listed.keys().cloned().collect::<BTreeSet<_>>(), numbered, "headings of README.md, files with steps");
    for (path, said) in listed {
        if let Err(difference) = compare(&of_code(&source(&path)), &said) {
            panic!("{path}: {difference}");
        }
    }
}

#[test]
fn what_differs_is_noticed() {
    let code =
        of_code("fn f() {\n    // 1. It is\n    // taken apart. Nothing else.\n    g();\n\n    // 2. It goes on.\n}\n");
    let said = |text: &str| lists(&format!("### `path/x.rs`\n\n{text}\n")).remove("path/x.rs").expect("a list");
    assert_eq!(compare(&code, &said("1. It is taken\n   apart (`y.rs`).\n2. It goes on: so.")), Ok(()));
    for other in [
        "1. It is taken apart.",
        "1. It is taken apart.\n2. It goes on.\n3. It ends.",
        "1. It goes on.\n2. It is taken apart.",
        "1. It is taken up.\n2. It goes on.",
    ] {
        assert!(compare(&code, &said(other)).is_err(), "{other}");
    }
}

/// Whether both have the same numbers, and what README.md says of a step begins with what the code says of it.
fn compare(code: &Steps, said: &Steps) -> Result<(), String> {
    let numbers = |steps: &Steps| steps.keys().copied().collect::<Vec<_>>();
    let all: Vec<_> = (1..).take(code.len()).collect();
    if numbers(code) != all || numbers(said) != all {
        return Err(format!("steps {:?} in the code, {:?} in README.md", numbers(code), numbers(said)));
    }
    for (number, text) in code {
        let title = text.split(['.', ':', ';']).next().unwrap_or_default();
        if title.is_empty() || !said[number].starts_with(title) {
            return Err(format!("step {number} is {title:?} in the code, and in README.md: {}", said[number]));
        }
    }
    Ok(())
}

/// Comments that begin with a number, with the lines that follow.
fn of_code(source: &str) -> Steps {
    let lines = source.lines().map(|line| line.trim_start().strip_prefix("// ").map(str::to_owned));
    collect(lines)
}

/// The numbered list under each heading that names a file.
fn lists(readme: &str) -> BTreeMap<String, Steps> {
    let mut lists = BTreeMap::new();
    for part in format!("\n{readme}").split("\n### ").skip(1) {
        let (heading, text) = part.split_once('\n').unwrap_or((part, ""));
        let Some(path) = heading.strip_prefix('`').and_then(|h| h.strip_suffix('`')) else { continue };
        let text = text.split("\n## ").next().unwrap_or_default();
        lists.insert(path.to_owned(), collect(text.lines().map(|line| (!line.is_empty()).then(|| line.to_owned()))));
    }
    lists
}

/// Joins lines that belong together: a step begins with its number and ends before the next one, or where there is no line.
fn collect(lines: impl Iterator<Item = Option<String>>) -> Steps {
    let mut steps = Steps::new();
    let mut at = None;
    for line in lines {
        let Some(line) = line else {
            at = None;
            continue;
        };
        let begins = line.split_once(". ").and_then(|(number, text)| Some((number.parse::<u32>().ok()?, text)));
        if let Some((number, text)) = begins {
            assert!(steps.insert(number, text.to_owned()).is_none(), "two steps {number}: {text}");
            at = Some(number);
        } else if let Some(step) = at.and_then(|number| steps.get_mut(&number)) {
            step.push(' ');
            step.push_str(line.trim());
        }
    }
    steps
}

fn source(path: &str) -> String {
    fs::read_to_string(programs().join(path)).expect("read a source")
}

fn programs() -> PathBuf {
    root().join("netns-ebpf/src")
}

/// The workspace's directory.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is in a workspace").to_owned()
}
