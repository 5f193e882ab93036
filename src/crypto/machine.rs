//! Sealing to a machine: what a client keeps on it between two commands.
//!
//! The key is made of three things: random bytes in a private file beside what is sealed, the machine's identity and the
//! number of the user. A copy of the files alone, in a backup, on a lost disk of home directories, in an archive that was
//! sent by mistake, opens nothing elsewhere. It is no defence against whoever runs programs on that machine as that user,
//! or reads all of its disk: they can do what the client does.

use aws_lc_rs::aead;
use zeroize::Zeroizing;

use super::{
    keyring::{Key, Place, SealError, key_id, open_with, seal_with},
    sha256,
};
use crate::model::{Entropy, Id};

/// The key of one user on one machine.
pub struct MachineKey {
    id: [u8; 16],
    cipher: aead::LessSafeKey,
}

impl std::fmt::Debug for MachineKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MachineKey([redacted])")
    }
}

impl MachineKey {
    /// Of these random bytes, on this machine, for this user.
    pub fn new(random: &[u8; 32], machine: &[u8], user: u32) -> Self {
        let said = Zeroizing::new([random.as_slice(), &user.to_be_bytes(), machine].concat());
        let key = Key(Zeroizing::new(sha256(&said)));
        let mut id = [0; 16];
        id.copy_from_slice(&key.derive(b"machine key id v1")[..16]);
        Self { id, cipher: key.cipher(b"machine key seal v1") }
    }

    /// Seals what is kept under `name`.
    pub fn seal(&self, name: &str, plaintext: &[u8], source: &dyn Entropy) -> Vec<u8> {
        seal_with(&self.cipher, self.id, self.place(), name, plaintext, source)
    }

    /// Opens what was kept under `name`.
    pub fn open(&self, name: &str, record: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        if key_id(record)? != self.id {
            return Err(SealError::UnknownKey);
        }
        open_with(&self.cipher, self.place(), name, record)
    }

    fn place(&self) -> Place<'static> {
        Place { table: "client", row: Id::from_bytes(self.id), column: "state" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SystemEntropy;

    #[test]
    fn nothing_opens_on_another_machine_for_another_user_or_under_another_name() {
        let key = MachineKey::new(&[7; 32], b"machine", 1000);
        let sealed = key.seal("work.session", b"kd_rt_secret", &SystemEntropy);
        assert_eq!(*key.open("work.session", &sealed).unwrap(), b"kd_rt_secret");
        for other in [
            MachineKey::new(&[8; 32], b"machine", 1000),
            MachineKey::new(&[7; 32], b"another", 1000),
            MachineKey::new(&[7; 32], b"machine", 1001),
        ] {
            assert_eq!(other.open("work.session", &sealed).unwrap_err(), SealError::UnknownKey);
        }
        assert_eq!(key.open("work.offline", &sealed).unwrap_err(), SealError::NotAuthentic);
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(key.open("work.session", &changed).is_err(), "byte {at}");
        }
        assert!(key.open("work.session", &[]).is_err());
    }
}
