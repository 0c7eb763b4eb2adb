// SPDX-License-Identifier: GPL-2.0

//! What a back-end has done, for people.

use super::Backend;

/// Returns one line with what the back-end has counted.
pub fn summary(backend: &dyn Backend) -> String {
    let disk = format!(
        "path={} backend={}",
        backend.disk().path().display(),
        backend.kind()
    );
    match backend.stats() {
        Ok(stats) => format!(
            "{disk} kicks={} requests={} bytes_read={} bytes_written={} flushes={} interrupts={} \
             io_errors={} malformed={}",
            stats.kicks,
            stats.requests,
            stats.bytes_read,
            stats.bytes_written,
            stats.flushes,
            stats.interrupts,
            stats.io_errors,
            stats.malformed
        ),
        Err(e) => format!("{disk} no counters: {e}"),
    }
}
