//! Another key-encryption key: which files open the desk, which are refused, and what is left of the old one.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::Value;

use crate::support::{Done, Place, Server, eventually, read};

const NEW: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n";
const OTHER: &str = "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=\n";

/// A desk with a provider key, whose KEK files can be laid out at will.
struct Desk(Place);

impl Desk {
    fn new() -> Self {
        let place = Place::with_desk();
        place.must_with(&["key", "set", "openai"], "sk-proj-CANARY0123456789");
        Self(place)
    }

    fn put(&self, name: &str, text: &str) {
        let path = self.0.path("keydesk-data").join(name);
        let _ = fs::remove_file(&path);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn get(&self, name: &str) -> String {
        read(&self.0.path("keydesk-data").join(name))
    }

    /// The files beside the database that hold a KEK.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path("keydesk-data")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name.starts_with("kek")).collect();
        names.sort();
        names
    }

    fn status(&self) -> Value {
        self.0.json(&["kek", "status"])
    }

    fn stage(&self) -> String {
        self.status()["stage"].as_str().unwrap().to_owned()
    }

    /// How many data keys the KEK of that role wraps.
    fn wrapped_by(&self, role: &str) -> Option<u64> {
        let status = self.status();
        let mut keks = status["keks"].as_array().unwrap().iter();
        keks.find(|kek| kek["role"] == role).map(|kek| kek["data_keys"].as_u64().unwrap())
    }

    fn is_refused(&self, variables: &[(&str, &str)], why: &[&str]) {
        let before = self.0.database();
        for arguments in [&["serve", "--listen", "127.0.0.1:0"][..], &["key", "list"], &["kek", "rotate"]] {
            let done = self.0.run_with(arguments, variables, "");
            assert_one_line(&done, why);
            assert!(self.0.database() == before, "{arguments:?} changed the database");
        }
    }

    /// A provider key can still be sealed and is still listed, and the book is whole.
    fn works(&self) {
        self.0.must_with(&["key", "set", "anthropic"], "sk-ant-CANARY0123456789");
        self.0.must(&["audit", "verify"]);
    }

    fn serve_until(&self, what: &str, holds: impl Fn() -> bool) -> Server {
        let server = self.0.serve(&[]);
        eventually(what, holds);
        server
    }
}

fn assert_one_line(done: &Done, why: &[&str]) {
    assert_eq!((done.code, done.stdout.as_str()), (1, ""), "{done:?}");
    assert!(done.stderr.lines().count() == 1 && done.stderr.starts_with("keydesk: "), "{done:?}");
    assert!(why.iter().all(|why| done.stderr.contains(why)), "{why:?}: {}", done.stderr);
}

#[test]
fn one_command_replaces_it() {
    let desk = Desk::new();
    let old = desk.get("kek");
    assert_eq!((desk.stage().as_str(), desk.wrapped_by("current")), ("none", Some(2)));
    let done = desk.0.json(&["kek", "rotate"]);
    assert_eq!(done["data_keys_wrapped"], 2);
    assert_ne!(desk.get("kek"), old);
    let aside = desk.files().pop().unwrap();
    assert!(done["old_kek_file"].as_str().unwrap().ends_with(&aside));
    assert_eq!((desk.files().len(), desk.get(&aside)), (2, old.clone()));
    assert_eq!(desk.0.mode("keydesk-data/kek"), 0o600);
    assert_eq!((desk.stage().as_str(), desk.wrapped_by("current")), ("none", Some(2)));
    desk.works();
    let events = desk.0.json(&["audit", "list", "--action", "data_key.rewrap"]);
    assert_eq!(events.as_array().unwrap().len(), 2);
    // And again; a mode that the operator chose stays.
    desk.0.set_mode("keydesk-data/kek", 0o400);
    desk.0.must(&["kek", "rotate"]);
    assert_eq!((desk.files().len(), desk.0.mode("keydesk-data/kek")), (3, 0o400));
    desk.put("kek", &old);
    desk.is_refused(&[], &["is not the one that the database", "2 of 2 data keys", "kek.previous_file"]);
    assert_eq!((desk.stage().as_str(), desk.wrapped_by("other")), ("refused", Some(2)));
}

#[test]
fn a_server_with_both_files_does_the_rest() {
    let desk = Desk::new();
    let old = desk.get("kek");
    desk.put("kek", NEW);
    desk.put("kek.previous", &old);
    assert_eq!((desk.stage().as_str(), desk.wrapped_by("previous")), ("under_way", Some(2)));
    desk.works();
    let server = desk.serve_until("nothing is wrapped by the old one", || desk.stage() == "over");
    assert_eq!(desk.wrapped_by("current"), Some(2));
    eventually("the log says so", || read(&desk.0.path("log")).contains("remove kek.previous_file"));
    assert_eq!(server.stop(), 0);
    fs::remove_file(desk.0.path("keydesk-data/kek.previous")).unwrap();
    desk.works();
}

#[test]
fn where_the_previous_one_is_can_be_said() {
    let desk = Desk::new();
    let old = desk.get("kek");
    desk.put("kek", NEW);
    let variable = [("KEYDESK_KEK__PREVIOUS_FILE", "old")];
    desk.is_refused(&variable, &["the previous key-encryption key old is missing", "kek.previous_file"]);
    fs::write(desk.0.path("old"), &old).unwrap();
    desk.0.set_mode("old", 0o644);
    desk.is_refused(&variable, &["the previous key-encryption key old can be read by others", "chmod"]);
    desk.0.set_mode("old", 0o600);
    let rotate = || desk.0.run_with(&["kek", "rotate"], &variable, "");
    let done = rotate();
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stderr.contains("under way already") && done.stdout.contains("remove kek.previous_file"));
    assert_eq!(fs::read_to_string(desk.0.path("old")).unwrap(), old);
    assert_one_line(&rotate(), &["no data key is wrapped by old any more", "remove kek.previous_file"]);
    desk.works();
}

#[test]
fn what_is_not_right_is_refused_and_the_database_stays_as_it_is() {
    let desk = Desk::new();
    let old = desk.get("kek");
    desk.put("kek.previous", &old);
    desk.is_refused(&[], &["holds the same key"]);
    desk.put("kek.previous", "not a key");
    desk.is_refused(&[], &["the previous key-encryption key ./keydesk-data/kek.previous is of no use"]);
    desk.put("kek.previous", OTHER);
    desk.put("kek", NEW);
    desk.is_refused(&[], &["is not the one", "2 of 2 data keys, nor is the previous one"]);
    desk.put("kek.previous", &old);
    desk.works();
    desk.put("kek.next", "not a key");
    desk.works();
}

#[tokio::test]
async fn a_data_key_that_does_not_open_is_named() {
    let desk = Desk::new();
    let moved = "update data_keys set wrapped = (select wrapped from data_keys where purpose = 'mac')";
    desk.0.forger().await.run(&format!("{moved} where purpose = 'seal'")).await;
    eventually("SQLite has put it in its file", || !desk.0.path("keydesk-data/keydesk.db-wal").exists());
    desk.is_refused(&[], &["data key ", " is damaged", "restore a backup"]);
    assert_eq!((desk.stage().as_str(), desk.status()["damaged"].as_u64()), ("refused", Some(1)));
}

#[test]
fn a_server_that_knows_only_the_old_one_goes_on() {
    let desk = Desk::new();
    let elsewhere = desk.0.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::copy(desk.0.path("keydesk-data/kek"), elsewhere.join("kek")).unwrap();
    let server = desk.0.serve(&[]);
    let there = [("KEYDESK_KEK__FILE", "elsewhere/kek")];
    let done = desk.0.run_with(&["kek", "rotate"], &there, "");
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!((desk.stage().as_str(), desk.wrapped_by("other")), ("refused", Some(2)));
    assert_eq!(server.stop(), 0);
    desk.is_refused(&[], &["is not the one that the database"]);
    let list = desk.0.run_with(&["key", "list"], &there, "");
    assert!(list.stdout.contains("openai"), "{list:?}");
}

#[test]
fn every_place_where_it_can_be_interrupted_is_one_to_go_on_from() {
    for (made, linked) in [(true, false), (true, true)] {
        let desk = Desk::new();
        let old = desk.get("kek");
        if made {
            desk.put("kek.next", NEW);
        }
        if linked {
            let path = |name| desk.0.path("keydesk-data").join(name);
            fs::hard_link(path("kek"), path("kek.previous")).unwrap();
        }
        assert_eq!(desk.stage(), "begun");
        desk.works();
        desk.0.must(&["kek", "rotate"]);
        assert_eq!(desk.get("kek"), NEW, "the key that was made is the one that is used");
        assert_eq!((desk.files().len(), desk.get(&desk.files()[1])), (2, old));
        desk.works();
    }
    // The data keys are wrapped, and the old file is not yet aside.
    let desk = Desk::new();
    let old = desk.get("kek");
    desk.0.must(&["kek", "rotate"]);
    let (new, aside) = (desk.get("kek"), desk.files().pop().unwrap());
    let path = |name: &str| desk.0.path("keydesk-data").join(name);
    fs::rename(path(&aside), path("kek.previous")).unwrap();
    assert_eq!(desk.stage(), "over");
    desk.0.must(&["kek", "rotate"]);
    assert_eq!((desk.get("kek"), desk.get(&aside)), (new, old));
}

#[test]
fn a_backup_from_before_opens_with_its_key_beside_the_new_one() {
    let desk = Desk::new();
    desk.0.must(&["backup", "desk.backup"]);
    desk.0.must(&["kek", "rotate"]);
    let there = Desk(Place::new());
    fs::create_dir(there.0.path("keydesk-data")).unwrap();
    there.put("kek", &desk.get("kek"));
    let backup = desk.0.path("desk.backup");
    let restore = ["restore", backup.to_str().unwrap()];
    let refused = there.0.run(&restore);
    assert!(refused.code == 1 && refused.stderr.contains("kek.previous_file"), "{refused:?}");
    there.put("kek.previous", &desk.get(&desk.files()[1]));
    there.0.must(&restore);
    assert_eq!((there.stage().as_str(), there.wrapped_by("previous")), ("under_way", Some(2)));
    there.0.must(&["kek", "rotate"]);
    assert_eq!((there.stage().as_str(), there.wrapped_by("current")), ("none", Some(2)));
    assert!(there.0.must(&["key", "list"]).contains("openai"));
}
