//! Which files does an input name, in which order?
//!
//! ```text
//!   -f web.yaml -f policies/ -f -
//!        │           ├─ a.yaml              *.yaml *.yml *.json, sorted by path,
//!        │           ├─ sub/b.json          subdirectories included,
//!        │           ├─ README.md           others are passed over, and what is no object,
//!        │           └─ .git/…              as are names that start with a dot
//!        └─ read whatever it is called
//! ```
//!
//! A file is read once however often it is named. Links are followed; a directory that contains
//! itself through a link is entered once.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustc_hash::FxHashSet;

use crate::diagnostic::Code;
use crate::kustomization;
use crate::reader::Reader;
use crate::reading::{Input, Options};

const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// How deep directories are entered.
const DEEPEST: usize = 64;

/// Hands every file of the inputs to the reader.
pub(crate) fn visit(inputs: &[Input], options: &Options, reader: &mut Reader<'_>) {
    let mut visitor = Visitor {
        options,
        reader,
        seen: FxHashSet::default(),
        bytes_left: options.max_total_bytes,
        files_left: options.max_files,
        stdin_read: false,
        stopped: false,
        patches: FxHashSet::default(),
    };
    for input in inputs {
        if let Input::Found { name, text } = input
            && kustomization::is(Path::new(name))
        {
            visitor.kustomization(Path::new(name), text);
        }
    }
    for input in inputs {
        match input {
            Input::Text { name, text } => {
                visitor.reader.bytes(name, text.clone().into_bytes(), false);
            }
            Input::Found { name, text } => {
                let path = Path::new(name);
                if !kustomization::is(path) && !visitor.is_patch(path) {
                    visitor.reader.bytes(name, text.clone().into_bytes(), true);
                }
            }
            Input::Stdin => visitor.stdin(),
            Input::Path(path) if path.as_os_str() == "-" => visitor.stdin(),
            Input::Path(path) => visitor.path(path),
        }
    }
}

struct Visitor<'v, 'o> {
    options: &'v Options,
    reader: &'v mut Reader<'o>,
    /// Files and directories that were met already, by their true path.
    seen: FxHashSet<PathBuf>,
    bytes_left: u64,
    files_left: usize,
    stdin_read: bool,
    stopped: bool,
    /// Files that Kustomizations name as patches.
    patches: FxHashSet<PathBuf>,
}

impl Visitor<'_, '_> {
    fn stdin(&mut self) {
        if !self.stdin_read {
            self.stdin_read = true;
            self.content("<stdin>", io::stdin().lock(), false);
        }
    }

    fn path(&mut self, path: &Path) {
        let name = shown(path);
        match fs::metadata(path) {
            Err(error) => self.unreadable(&name, &error),
            Ok(metadata) if metadata.is_dir() => {
                let mut found = 0;
                self.directory(path, 0, &mut found);
                if found == 0 {
                    let message = "this directory holds no manifest".to_string();
                    self.reader
                        .file_error(&name, Code::NothingToRead, message)
                        .help("files named *.yaml, *.yml and *.json are read");
                }
            }
            Ok(_) if kustomization::is(path) => {
                if let Ok(text) = self.small(path) {
                    self.kustomization(path, &text);
                }
            }
            Ok(_) => self.file(path, false),
        }
    }

    /// A file of tens of kilobytes at most, as text.
    fn small(&self, path: &Path) -> io::Result<String> {
        let mut text = String::new();
        File::open(path)?
            .take(self.options.max_file_bytes.min(1 << 20))
            .read_to_string(&mut text)?;
        Ok(text)
    }

    /// What kustomize would make of a directory is not what is read.
    fn kustomization(&mut self, path: &Path, text: &str) {
        let found = kustomization::read(path, text);
        self.patches.extend(found.patches);
        if found.changes.is_empty() {
            return;
        }
        let what = found.changes.join(", ");
        let message = format!("kustomize makes other objects of these files ({what})");
        let directory = path.parent().filter(|it| !it.as_os_str().is_empty());
        let directory = shown(directory.unwrap_or(Path::new(".")));
        self.reader.file_warning(&shown(path), Code::NotBuilt, message).help(format!(
            "the files are read as they stand; to ask of what it makes: kubectl kustomize \
             {directory} | podwall … -f -"
        ));
    }

    fn is_patch(&self, path: &Path) -> bool {
        !self.patches.is_empty() && self.patches.contains(&kustomization::clean(path))
    }

    fn directory(&mut self, path: &Path, depth: usize, found: &mut usize) {
        let name = shown(path);
        if !self.is_new(path) {
            return;
        }
        if depth > DEEPEST {
            let message = format!("directories are nested more than {DEEPEST} deep");
            self.reader.file_error(&name, Code::Limit, message);
            return;
        }
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) => return self.unreadable(&name, &error),
        };
        let mut paths = BTreeSet::new();
        for entry in entries {
            match entry {
                Ok(entry) if entry.file_name().as_encoded_bytes().starts_with(b".") => {}
                Ok(entry) => _ = paths.insert(entry.path()),
                Err(error) => self.unreadable(&name, &error),
            }
        }
        for path in paths.iter().filter(|path| kustomization::is(path)) {
            *found += 1;
            // Whoever may not read it learns so of the other files.
            if self.is_new(path)
                && let Ok(text) = self.small(path)
            {
                self.kustomization(path, &text);
            }
        }
        for path in paths {
            if self.stopped {
                return;
            }
            if kustomization::is(&path) || self.is_patch(&path) {
                continue;
            }
            let ending = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
            let wanted = ending.is_some_and(|e| ENDINGS.contains(&e.as_str()));
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => self.directory(&path, depth + 1, found),
                // Pipes and devices are read only if they are named themselves.
                Ok(metadata) if metadata.is_file() && wanted => {
                    *found += 1;
                    self.file(&path, true);
                }
                Err(error) if wanted => {
                    *found += 1;
                    self.unreadable(&shown(&path), &error);
                }
                _ => {}
            }
        }
    }

    fn file(&mut self, path: &Path, found: bool) {
        let name = shown(path);
        if self.stopped || !self.is_new(path) {
            return;
        }
        if self.files_left == 0 {
            self.stopped = true;
            let message = format!(
                "more than {} files: this one and the rest are not read",
                self.options.max_files
            );
            self.reader.file_error(&name, Code::Limit, message);
            return;
        }
        self.files_left -= 1;
        match File::open(path) {
            Ok(file) => self.content(&name, file, found),
            Err(error) => self.unreadable(&name, &error),
        }
    }

    fn content(&mut self, name: &str, source: impl Read, found: bool) {
        let limit = self.options.max_file_bytes.min(self.bytes_left);
        let mut bytes = Vec::new();
        if let Err(error) = source.take(limit + 1).read_to_end(&mut bytes) {
            return self.unreadable(name, &error);
        }
        let length = bytes.len() as u64;
        if length <= limit {
            self.bytes_left -= length;
            return self.reader.bytes(name, bytes, found);
        }
        let (what, limit) = if limit == self.options.max_file_bytes {
            ("this file is", limit)
        } else {
            self.stopped = true;
            ("all files together are", self.options.max_total_bytes)
        };
        let message = format!("{what} larger than {}", size(limit));
        self.reader
            .file_error(name, Code::Limit, message)
            .help("is it a manifest? otherwise split it");
    }

    /// Whether the file or directory was not met before. One whose path cannot be made out is new.
    fn is_new(&mut self, path: &Path) -> bool {
        fs::canonicalize(path).map_or(true, |path| self.seen.insert(path))
    }

    fn unreadable(&mut self, name: &str, error: &io::Error) {
        let why = match error.kind() {
            io::ErrorKind::NotFound => "there is no such file or directory".to_string(),
            io::ErrorKind::PermissionDenied => "permission denied".to_string(),
            _ if error.raw_os_error() == Some(40) => {
                "it is a link that leads to itself".to_string()
            }
            _ => error.to_string(),
        };
        self.reader.file_error(name, Code::Unreadable, format!("cannot be read: {why}"));
    }
}

/// A path as places and messages show it: without characters that a terminal obeys.
fn shown(path: &Path) -> String {
    let path = path.display().to_string();
    if path.chars().any(char::is_control) { path.escape_debug().to_string() } else { path }
}

fn size(bytes: u64) -> String {
    match bytes {
        b if b >= 1 << 20 && b % (1 << 20) == 0 => format!("{} MiB", b >> 20),
        b => format!("{b} bytes"),
    }
}
