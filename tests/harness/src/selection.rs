// SPDX-License-Identifier: GPL-2.0

//! Selects tests by the arguments that programs of libtest take, so that cargo-nextest and editors
//! can list and run them.

use crate::context::Case;

/// Tests that are asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Selection<'a> {
    /// Parts of names, or names; without any, all tests.
    filters: Vec<&'a str>,
    /// Parts of names, or names, of tests to leave out.
    skipped: Vec<&'a str>,
    /// Set when filters are whole names.
    is_exact: bool,
    /// Set when no test may run that is not ignored. None is.
    is_ignored: bool,
    /// Set when the tests are to be listed.
    pub is_list: bool,
}

impl<'a> Selection<'a> {
    /// Reads libtest's arguments.
    ///
    /// # Errors
    ///
    /// Says which argument is none.
    pub fn parse(words: &[&'a str]) -> Result<Self, String> {
        let mut selection = Self::default();
        let mut words = words.iter().copied();
        while let Some(word) = words.next() {
            let (option, given) = match word.split_once('=') {
                Some((option, value)) if word.starts_with("--") => (option, Some(value)),
                _ => (word, None),
            };
            let mut value = || {
                given
                    .or_else(|| words.next())
                    .ok_or(format!("{option} lacks its value"))
            };
            match option {
                "--skip" => selection.skipped.push(value()?),
                "--format" => match value()? {
                    // A list has one form, and so has a report.
                    "terse" | "pretty" => (),
                    other => return Err(format!("--format {other}: must be terse or pretty")),
                },
                _ if given.is_some() => return Err(format!("{option} takes no value")),
                "--list" => selection.is_list = true,
                "--exact" => selection.is_exact = true,
                "--ignored" => selection.is_ignored = true,
                // Nothing is captured.
                "--nocapture" | "--no-capture" => (),
                _ if option.starts_with('-') => return Err(format!("unknown option: {option}")),
                filter => selection.filters.push(filter),
            }
        }
        Ok(selection)
    }

    /// Selects the tests with these names; without any, all tests.
    pub fn named(names: &[&'a str]) -> Self {
        Self {
            filters: names.to_vec(),
            is_exact: true,
            ..Self::default()
        }
    }

    /// Returns the selected of these tests in their order.
    ///
    /// # Errors
    ///
    /// Says which filter matches no test, or that there is no test to run.
    pub fn of(&self, tests: impl Iterator<Item = Case>) -> Result<Vec<Case>, String> {
        let tests: Vec<(String, Case)> = tests.map(|test| (test.name(), test)).collect();
        for filter in &self.filters {
            if !tests.iter().any(|(name, _)| self.matches(name, filter)) {
                return Err(match self.is_exact {
                    true => format!("no test is called {filter}"),
                    false => format!("no test has {filter} in its name"),
                });
            }
        }
        let selected = tests.into_iter().filter(|(name, _)| self.has(name));
        let selected: Vec<Case> = selected.map(|(_, test)| test).collect();
        if selected.is_empty() && !self.is_list {
            return Err("no test is left to run".to_owned());
        }
        Ok(selected)
    }

    fn has(&self, name: &str) -> bool {
        let among = |filters: &[&str]| filters.iter().any(|filter| self.matches(name, filter));
        !self.is_ignored
            && (self.filters.is_empty() || among(&self.filters))
            && !among(&self.skipped)
    }

    fn matches(&self, name: &str, filter: &str) -> bool {
        match self.is_exact {
            true => name == filter,
            false => name.contains(filter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::all;
    use std::collections::BTreeSet;

    fn names(words: &[&str]) -> Result<Vec<String>, String> {
        let selected = Selection::parse(words)?.of(all())?;
        Ok(selected.iter().map(Case::name).collect())
    }

    #[test]
    fn each_test_has_a_name_of_its_own_and_a_layer_that_is_run() {
        let names = names(&[]).unwrap();
        let different: BTreeSet<&String> = names.iter().collect();
        assert_eq!(different.len(), names.len());
        for name in names {
            let (layer, _) = name.split_once('/').unwrap();
            assert!(["harness", "vdpa", "bridge", "differential"].contains(&layer));
        }
    }

    #[test]
    fn a_filter_is_a_part_of_a_name_or_a_name() {
        let late = names(&["late_answers"]).unwrap();
        assert!(late.contains(&"harness/late_answers_at_detach.packed".to_owned()));
        assert!(late.iter().all(|name| name.contains("late_answers")));
        let both = names(&["late_answers", "256_queues"]).unwrap();
        assert!(both.len() > late.len());
        let one = names(&["--exact", "harness/late_answers", "--nocapture"]).unwrap();
        assert_eq!(one, ["harness/late_answers"]);
    }

    #[test]
    fn what_is_skipped_is_left_out() {
        let split = names(&["harness/late_answers_at_detach", "--skip", ".p"]).unwrap();
        assert_eq!(split, ["harness/late_answers_at_detach"]);
        assert_eq!(
            names(&["harness/late_answers_at_detach", "--skip=.p"]),
            Ok(split)
        );
        let words = ["late_answers", "--skip", "late"];
        assert_eq!(names(&words), Err("no test is left to run".to_owned()));
    }

    #[test]
    fn a_list_has_all_and_none_is_ignored() {
        let list = Selection::parse(&["--list", "--format", "terse"]).unwrap();
        assert!(list.is_list);
        assert_eq!(list.of(all()).unwrap().len(), all().count());
        let ignored = Selection::parse(&["--list", "--format=terse", "--ignored"]).unwrap();
        assert!(ignored.of(all()).unwrap().is_empty());
        assert!(names(&["--ignored"]).is_err());
    }

    #[test]
    fn a_filter_that_matches_nothing_is_an_error() {
        assert_eq!(
            names(&["late_answers", "lateness"]),
            Err("no test has lateness in its name".to_owned())
        );
        let part = Selection::named(&["harness/late_answers", "late_answers"]);
        assert_eq!(
            part.of(all()).err(),
            Some("no test is called late_answers".to_owned())
        );
        assert!(names(&["--list", "lateness"]).is_err());
    }

    #[test]
    fn wrong_arguments_are_told() {
        let wrong: [(&[&str], &str); 4] = [
            (&["--skip"], "--skip lacks its value"),
            (&["--bench"], "unknown option: --bench"),
            (
                &["--format", "json"],
                "--format json: must be terse or pretty",
            ),
            (&["--exact=yes"], "--exact takes no value"),
        ];
        for (words, complaint) in wrong {
            assert_eq!(Selection::parse(words), Err(complaint.to_owned()));
        }
    }
}
