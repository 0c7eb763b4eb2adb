// SPDX-License-Identifier: GPL-2.0

//! Mark against take: a thread leaves something for the worker and marks the queue, while the
//! worker takes the marks and looks. A loss is a worker that sleeps for ever.

use crate::{
    model,
    worker::Worker, //
};
use loom::{
    sync::{
        atomic::{
            AtomicBool,
            Ordering::Relaxed, //
        },
        Arc,
        Mutex, //
    },
    thread,
};

/// Leaves flags for the worker without any ordering, one thread for each queue of `queues`, then
/// marks these. The queues of `marked` are marked from the beginning.
fn relaxed_flags(queues: &'static [usize], marked: &'static [usize]) {
    model(move || {
        let worker = Worker::new();
        let flags: Arc<Vec<_>> = Arc::new(queues.iter().map(|_| AtomicBool::new(false)).collect());
        for queue in marked {
            worker.mark(*queue);
        }
        let completers: Vec<_> = (0..queues.len())
            .map(|index| {
                let (worker, flags) = (worker.clone(), flags.clone());
                thread::spawn(move || {
                    flags[index].store(true, Relaxed);
                    worker.wake(queues[index]);
                })
            })
            .collect();

        let mut seen = vec![false; queues.len()];
        while seen.contains(&false) {
            worker.serve_marked(|marked| {
                // Only flags of that queue: no mark stands for another.
                for (index, queue) in queues.iter().enumerate() {
                    if *queue == marked && flags[index].load(Relaxed) {
                        seen[index] = true;
                    }
                }
            });
        }
        for completer in completers {
            completer.join().expect("a completer ends");
        }
    });
}

#[test]
fn a_relaxed_flag_before_the_first_mark_is_seen() {
    relaxed_flags(&[0], &[]);
}

/// The mark is there already, and the worker may be taking it: setting it again must order all the
/// same.
#[test]
fn a_relaxed_flag_before_a_mark_that_is_set_already_is_seen() {
    relaxed_flags(&[0], &[0]);
}

#[test]
fn relaxed_flags_of_two_threads_are_seen_by_one_mark_or_two() {
    relaxed_flags(&[0, 0], &[]);
}

#[test]
fn queues_in_one_word_are_told_apart() {
    relaxed_flags(&[0, 63], &[]);
}

#[test]
fn queues_in_two_words_are_told_apart() {
    relaxed_flags(&[63, 64], &[64]);
}

#[test]
fn what_is_stored_under_a_lock_before_a_mark_is_found() {
    const ENTRIES: usize = 2;
    model(|| {
        let worker = Worker::new();
        let list = Arc::new(Mutex::new(Vec::new()));
        worker.mark(0);
        let completers: Vec<_> = (0..ENTRIES)
            .map(|entry| {
                let (worker, list) = (worker.clone(), list.clone());
                thread::spawn(move || {
                    list.lock().expect("not poisoned").push(entry);
                    worker.wake(0);
                })
            })
            .collect();

        let mut found = Vec::new();
        while found.len() < ENTRIES {
            worker.serve_marked(|queue| {
                assert_eq!(queue, 0);
                found.append(&mut list.lock().expect("not poisoned"));
            });
        }
        for completer in completers {
            completer.join().expect("a completer ends");
        }
        found.sort_unstable();
        assert_eq!(found, [0, 1]);
    });
}
