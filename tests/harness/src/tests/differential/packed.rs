// SPDX-License-Identifier: GPL-2.0

//! Comparisons on packed rings, without descriptors that have no meaning.

use super::{features::common, pair::compare, recipe::Recipes};
use crate::prelude::*;

pub const TESTS: &[Test] = tests!["differential":
    reads_and_writes(90),
    requests_that_fail(90),
];

fn reads_and_writes(context: &Context) -> Outcome {
    compare(context, common(), 200, Recipes::good_batch)
}

fn requests_that_fail(context: &Context) -> Outcome {
    compare(context, common(), 400, Recipes::failing_batch)
}
