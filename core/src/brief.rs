//! The words of others, cut to what a line can hold.

use std::borrow::Cow;

/// Most characters of the words of another program in an error: the log, `status` and the page have it, each time it
/// is asked.
pub const BRIEF_LEN_MAX: usize = 400;

/// The text, or its beginning and its length in bytes where it is longer than [`BRIEF_LEN_MAX`].
pub fn brief(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(BRIEF_LEN_MAX) {
        None => text.into(),
        Some((at, _)) => {
            format!("{}... ({} bytes)", text.get(..at).unwrap_or_default(), text.len()).into()
        }
    }
}

/// Why a value cannot be read, which may quote all of it.
pub(crate) fn unread(error: &serde_json::Error) -> String {
    brief(&error.to_string()).into_owned()
}
