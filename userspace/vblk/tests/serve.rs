// SPDX-License-Identifier: GPL-2.0

//! `vblk serve` with the io-uring back-end, as a front-end sees it. `bridge/` has the same cases with
//! the module.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    os::{
        fd::AsRawFd,
        linux::net::SocketAddrExt,
        unix::{
            fs::PermissionsExt,
            net::{SocketAddr, UnixDatagram, UnixListener, UnixStream},
            process::CommandExt,
        },
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use vblk::testing::{
    conformance::{still_serves, CASES, DISK_BYTES},
    front_end::{shared_file, FrontEnd, GuestRing, SharedGuest, PATIENCE},
};
use vhost::{
    vhost_user::{message::VhostUserInflight, VhostUserFrontend},
    VhostBackend,
};

/// A bridge, and its disk, in a directory of their own.
struct Bridge {
    place: TempDir,
    child: Running,
}

/// A process that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(place: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vblk"));
    command
        .args([
            "serve",
            "--backend",
            "io-uring",
            "--num-queues",
            "2",
            "--blk-file",
        ])
        .arg(place.path().join("disk"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

fn place() -> TempDir {
    // Beside the build, as direct I/O needs a real file system.
    let place = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let disk = File::create(place.path().join("disk")).unwrap();
    disk.set_len(DISK_BYTES).unwrap();
    place
}

impl Bridge {
    fn new() -> Self {
        Self::at(place())
    }

    fn at(place: TempDir) -> Self {
        let socket = place.path().join("socket");
        let child = command(&place)
            .arg("--socket-path")
            .arg(&socket)
            .spawn()
            .unwrap();
        let mut bridge = Self {
            place,
            child: Running(child),
        };
        bridge.wait_until("it listens", |_| UnixStream::connect(&socket).is_ok());
        bridge
    }

    fn socket(&self) -> PathBuf {
        self.place.path().join("socket")
    }

    fn front_end(&self) -> FrontEnd {
        FrontEnd::new(UnixStream::connect(self.socket()).unwrap())
    }

    fn wait_until(&mut self, what: &str, mut done: impl FnMut(&mut Child) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done(&mut self.child.0) {
            assert!(Instant::now() < end, "waited too long until {what}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal. Returns the exit status, and what was said.
    fn end(mut self, signal: i32) -> (Option<i32>, String, TempDir) {
        // SAFETY: The child has not been waited for, so that the number is its own.
        assert_eq!(unsafe { libc::kill(self.child.0.id() as i32, signal) }, 0);
        self.wait_until("it ends", |child| child.try_wait().unwrap().is_some());
        let status = self.child.0.wait().unwrap();
        let mut said = String::new();
        let mut errors = self.child.0.stderr.take().unwrap();
        errors.read_to_string(&mut said).unwrap();
        (status.code(), said, self.place)
    }
}

/// Runs a case of the conformance, and looks whether the bridge is none the worse for it.
fn conforms(name: &str) {
    let (_, case) = CASES.iter().find(|(known, _)| *known == name).unwrap();
    let bridge = Bridge::new();
    case(&bridge.socket());
    still_serves(&bridge.socket());
    let (status, said, _place) = bridge.end(libc::SIGTERM);
    assert_eq!(status, Some(0), "{said}");
}

macro_rules! conformance {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                conforms(stringify!($name));
            }
        )*

        #[test]
        fn no_case_of_the_conformance_is_left_out() {
            let names = [$(stringify!($name)),*];
            assert!(CASES.iter().map(|(name, _)| *name).eq(names));
        }
    };
}

conformance! {
    data_is_written_and_read_by_both_formats
    positions_are_kept_over_a_stop
    rings_start_and_stop_one_by_one
    a_ring_needs_its_kick_and_its_switch
    memory_is_replaced_while_rings_are_served
    memory_is_added_and_removed_while_rings_are_served
    memory_that_is_none_is_refused
    rings_that_are_none_are_refused
    a_bad_ring_leaves_the_others_alone
    features_are_within_the_offer
    the_configuration_space_and_its_switch
    what_was_not_agreed_on_is_refused
    messages_of_a_wrong_size
    messages_with_wrong_descriptors
    messages_that_are_none
    a_reset_forgets_the_rings
    a_second_front_end_waits_for_the_first_to_go
    a_front_end_may_go_after_any_message
    what_was_answered_is_not_done_again
}

/// A guest whose ring 0 is being served, on split rings.
fn served(front_end: &mut FrontEnd) -> (SharedGuest, GuestRing) {
    front_end.negotiate(1 << 34);
    let guest = SharedGuest::new();
    front_end.share(&guest);
    let ring = GuestRing::new(&guest, 0, 64, front_end.features);
    front_end.start(&ring, 0).unwrap();
    (guest, ring)
}

#[test]
fn a_signal_ends_it_when_what_is_in_flight_is_answered() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        let bridge = Bridge::new();
        let mut front_end = bridge.front_end();
        let (_guest, mut ring) = served(&mut front_end);
        let mut writes = Vec::new();
        for slot in 0..16 {
            let write = ring.write(slot, slot * 8, &[slot as u8 + 1; 4096]);
            ring.add(&write);
            writes.push(write);
        }
        ring.publish();
        let (status, said, place) = bridge.end(signal);
        assert_eq!(status, Some(0), "{said}");
        front_end.must_be_closed();
        // Each was answered and is on the disk, or was left in the ring.
        let mut answers = 0;
        while ring.wait_for(Duration::ZERO).is_some() {
            answers += 1;
        }
        assert!(
            said.contains(&format!("requests={answers} ")),
            "{answers}: {said}"
        );
        let disk = fs::read(place.path().join("disk")).unwrap();
        let written = disk.chunks(4096).filter(|block| block[0] != 0).count();
        assert_eq!(written, answers);
        assert!(!place.path().join("socket").exists());
    }
}

#[test]
fn a_killed_one_is_replaced_at_the_same_socket() {
    let bridge = Bridge::new();
    let mut front_end = bridge.front_end();
    let (guest, mut ring) = served(&mut front_end);
    let write = ring.write(0, 0, &[7; 4096]);
    assert_eq!(ring.perform(&write), 0);
    let (status, _, place) = bridge.end(libc::SIGKILL);
    assert_eq!(status, None);
    front_end.must_be_closed();
    assert!(place.path().join("socket").exists());
    // What the driver adds while nobody serves it.
    let read = ring.read(1, 0, 4096);
    ring.add(&read);
    ring.publish();
    let bridge = Bridge::at(place);
    let mut front_end = bridge.front_end();
    front_end.negotiate(1 << 34);
    front_end.share(&guest);
    front_end
        .start(&ring, u32::from(ring.driver.next_used()))
        .unwrap();
    assert!(ring.wait_for(PATIENCE).is_some());
    assert_eq!(ring.contents(&read), [7; 4096]);
}

#[test]
fn a_disk_that_grows_is_told_and_read() {
    let bridge = Bridge::new();
    let mut front_end = bridge.front_end();
    let (_guest, mut ring) = served(&mut front_end);
    let (ours, theirs) = UnixStream::pair().unwrap();
    front_end.set_notices(&theirs).unwrap();
    drop(theirs);
    let disk = File::options()
        .write(true)
        .open(bridge.place.path().join("disk"))
        .unwrap();
    disk.set_len(2 * DISK_BYTES).unwrap();
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut message = [0; 12];
    (&ours).read_exact(&mut message).unwrap();
    // CONFIG_CHANGE_MSG, version 1, without a payload.
    assert_eq!(message, [2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    let sectors = front_end.config(0, 8).unwrap();
    assert_eq!(sectors, (2 * DISK_BYTES / 512).to_le_bytes());
    let read = ring.read(0, DISK_BYTES / 512, 4096);
    assert_eq!(ring.perform(&read), 0);
    // It goes on without the socket for notices.
    drop(ours);
    disk.set_len(DISK_BYTES).unwrap();
    let end = Instant::now() + PATIENCE;
    while front_end.config(0, 8).unwrap() == sectors {
        assert!(Instant::now() < end, "the shorter disk is not seen");
        thread::sleep(Duration::from_millis(50));
    }
    let read = ring.read(0, 0, 4096);
    assert_eq!(ring.perform(&read), 0);
}

#[test]
fn a_front_end_that_takes_its_memory_away_ends_it_with_a_line() {
    let bridge = Bridge::new();
    let mut front_end = bridge.front_end();
    let (guest, ring) = served(&mut front_end);
    guest.file.set_len(0).unwrap();
    ring.kick.write(1).unwrap();
    let (status, said, _place) = bridge.end(0);
    assert_eq!(status, Some(128 + libc::SIGBUS));
    let line = "vblk: guest memory is gone: the front-end has truncated its file\n";
    assert_eq!(said, line);
}

#[test]
fn front_ends_leave_nothing_behind() {
    let bridge = Bridge::new();
    let process = PathBuf::from(format!("/proc/{}", bridge.child.0.id()));
    let held = || {
        // It has let go of the one before when this one is answered, and counts the same each time.
        let front_end = bridge.front_end();
        front_end.vhost.get_features().unwrap();
        let files = fs::read_dir(process.join("fd")).unwrap().count();
        let maps = fs::read_to_string(process.join("maps")).unwrap();
        (files, maps.matches("/dev/shm/vblk-guest").count())
    };
    still_serves(&bridge.socket());
    let before = held();
    assert_eq!(before.1, 0, "memory of a guest that has gone");
    for _ in 0..50 {
        still_serves(&bridge.socket());
        let front_end = bridge.front_end();
        let file = shared_file(4096);
        for code in [1, 12, 37] {
            // Refused, with all that comes with it.
            let _ = front_end.send(code, 1, &[0; 40], &[file.as_raw_fd(); 8]);
        }
        front_end.must_be_closed();
    }
    assert_eq!(held(), before);
}

#[test]
fn it_is_confined() {
    let bridge = Bridge::new();
    still_serves(&bridge.socket());
    let tasks = format!("/proc/{}/task", bridge.child.0.id());
    let mut count = 0;
    for task in fs::read_dir(tasks).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        // SECCOMP_MODE_FILTER
        for line in ["Seccomp:\t2\n", "NoNewPrivs:\t1\n"] {
            assert!(status.contains(line), "{status}");
        }
        count += 1;
    }
    // The one that speaks with front-ends, the disk's, and what the kernel starts for it.
    assert!(count >= 2);
}

#[test]
fn the_socket_is_for_its_owner_and_group() {
    let bridge = Bridge::new();
    let mode = fs::metadata(bridge.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    // Where one listens, no other does.
    let other = place();
    let output = command(&other)
        .arg("--socket-path")
        .arg(bridge.socket())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.ends_with("socket: Address already in use\n"), "{said}");
    // A file of someone's is not replaced.
    let file = bridge.place.path().join("file");
    File::create(&file).unwrap().write_all(b"text").unwrap();
    let output = command(&place()).arg("--socket-path").arg(&file).output();
    assert_eq!(output.unwrap().status.code(), Some(2));
    assert_eq!(fs::read(&file).unwrap(), b"text");
    still_serves(&bridge.socket());
}

/// Lets the child have `file` as its descriptor 200.
fn hand_on(command: &mut Command, file: &impl AsRawFd) {
    let number = file.as_raw_fd();
    let hand_on = move || {
        // SAFETY: dup2 takes no pointer.
        match unsafe { libc::dup2(number, 200) } {
            200 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: The function makes one system call.
    unsafe { command.pre_exec(hand_on) };
}

#[test]
fn a_listening_and_a_connected_socket_can_be_inherited() {
    let place = place();
    let socket = place.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut child = command(&place);
    hand_on(&mut child, &listener);
    let child = child.args(["--fd", "200"]).spawn().unwrap();
    let bridge = Bridge {
        place,
        child: Running(child),
    };
    for _ in 0..2 {
        still_serves(&socket);
    }
    let (status, _, place) = bridge.end(libc::SIGTERM);
    assert_eq!(status, Some(0));
    // It is not its own.
    assert!(socket.exists());

    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut child = command(&place);
    hand_on(&mut child, &theirs);
    let mut child = child.args(["--fd", "200"]).spawn().unwrap();
    drop(theirs);
    let mut front_end = FrontEnd::new(ours);
    let (_guest, mut ring) = served(&mut front_end);
    let read = ring.read(0, 0, 512);
    assert_eq!(ring.perform(&read), 0);
    drop(front_end);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_service_manager_is_told_that_it_is_ready() {
    let place = place();
    let path = place.path().join("notify");
    let name = format!("vblk-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    for (manager, told) in [
        (
            UnixDatagram::bind(&path).unwrap(),
            path.display().to_string(),
        ),
        (
            UnixDatagram::bind_addr(&address).unwrap(),
            format!("@{name}"),
        ),
    ] {
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        let socket = place.path().join("socket");
        let mut child = command(&place)
            .arg("--socket-path")
            .arg(&socket)
            .env("NOTIFY_SOCKET", told)
            .spawn()
            .unwrap();
        let mut word = [0; 16];
        let count = manager.recv(&mut word).unwrap();
        assert_eq!(&word[..count], b"READY=1");
        // As it says.
        UnixStream::connect(&socket).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        fs::remove_file(&socket).unwrap();
    }
}

#[test]
fn a_read_only_disk_is_read_only() {
    let place = place();
    let mut disk = File::options()
        .write(true)
        .open(place.path().join("disk"))
        .unwrap();
    disk.seek(SeekFrom::Start(0)).unwrap();
    disk.write_all(&[9; 4096]).unwrap();
    let socket = place.path().join("socket");
    let child = command(&place)
        .args(["--read-only", "--serial", "of-the-test", "--socket-path"])
        .arg(&socket)
        .spawn()
        .unwrap();
    let mut bridge = Bridge {
        place,
        child: Running(child),
    };
    bridge.wait_until("it listens", |_| UnixStream::connect(&socket).is_ok());
    let mut front_end = bridge.front_end();
    let (_guest, mut ring) = served(&mut front_end);
    assert!(front_end.features.has(5));
    let write = ring.write(0, 0, &[1; 4096]);
    assert_eq!(ring.perform(&write), 1);
    let read = ring.read(1, 0, 4096);
    assert_eq!(ring.perform(&read), 0);
    assert_eq!(ring.contents(&read), [9; 4096]);
}

#[test]
fn a_log_is_not_offered_by_a_back_end_without_one() {
    let bridge = Bridge::new();
    let front_end = FrontEnd::new(UnixStream::connect(bridge.socket()).unwrap());
    let ask = |code| {
        front_end.send(code, 1, &[], &[]).unwrap();
        let mut answer = [0; 20];
        (&front_end.socket).read_exact(&mut answer).unwrap();
        u64::from_ne_bytes(answer[12..].try_into().unwrap())
    };
    assert_eq!(ask(1) >> 26 & 1, 0, "VHOST_F_LOG_ALL");
    assert_eq!(ask(15) >> 1 & 1, 0, "LOG_SHMFD");
    let log = File::open(bridge.place.path().join("disk")).unwrap();
    let payload = [4096u64, 0].map(u64::to_ne_bytes).concat();
    front_end.send(6, 1, &payload, &[log.as_raw_fd()]).unwrap();
    front_end.must_be_closed();
    still_serves(&bridge.socket());
}

#[test]
fn notes_that_do_not_fit_are_refused() {
    let bridge = Bridge::new();
    let mut front_end = bridge.front_end();
    front_end.negotiate(1 << 34);
    for (queues, entries) in [(0, 64), (3, 64), (1, 0), (1, 65), (1, 32769)] {
        let wanted = VhostUserInflight::new(0, 0, queues, entries);
        // There is no answer that says so.
        assert!(front_end.vhost.get_inflight_fd(&wanted).is_err());
        front_end = reconnected(&bridge, front_end);
    }
    let notes = |front_end: &mut FrontEnd, queues, entries| {
        let wanted = VhostUserInflight::new(0, 0, queues, entries);
        front_end.vhost.get_inflight_fd(&wanted).unwrap()
    };
    let guest = SharedGuest::new();
    front_end.share(&guest);
    let ring = GuestRing::new(&guest, 1, 64, front_end.features);
    // For shorter rings, for fewer of them, and in a file that is too short or none.
    for (queues, entries) in [(2, 32), (1, 64)] {
        let (spec, file) = notes(&mut front_end, queues, entries);
        let handed_over = front_end.vhost.set_inflight_fd(&spec, file.as_raw_fd());
        handed_over.unwrap();
        assert!(front_end.start(&ring, 0).is_err());
    }
    let (mut spec, file) = notes(&mut front_end, 2, 64);
    spec.mmap_size += 1;
    assert!(front_end
        .vhost
        .set_inflight_fd(&spec, file.as_raw_fd())
        .is_err());
    spec.mmap_size -= 1;
    assert!(front_end
        .vhost
        .set_inflight_fd(&spec, ring.kick.as_raw_fd())
        .is_err());
    // These fit, and stay while they are used.
    front_end
        .vhost
        .set_inflight_fd(&spec, file.as_raw_fd())
        .unwrap();
    front_end.start(&ring, 0).unwrap();
    assert!(front_end
        .vhost
        .set_inflight_fd(&spec, file.as_raw_fd())
        .is_err());
    drop(front_end);
    still_serves(&bridge.socket());
}

fn reconnected(bridge: &Bridge, earlier: FrontEnd) -> FrontEnd {
    drop(earlier);
    let mut front_end = bridge.front_end();
    front_end.negotiate(1 << 34);
    front_end
}
