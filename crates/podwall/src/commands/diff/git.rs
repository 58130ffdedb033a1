//! What did the files of a git repository say at a revision?
//!
//! ```text
//!   REV ── git rev-parse ──▶ tree ── git ls-tree ──▶ paths ── git cat-file --batch ──▶ texts
//!   now ── git ls-files (and what is not ignored) ──▶ paths ── the files ──▶ texts
//! ```
//!
//! The `git` program is asked, so that its configuration, worktrees and alternates hold. Nothing is
//! checked out and nothing is written. Texts are named by their path in the repository.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Component, Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::output::Failure;
use crate::source::{Input, Options};

/// Two revisions, as the command line names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) before: String,
    /// `None`: the files as they are now.
    pub(super) after: Option<String>,
    /// `...`: not `before` itself, but where `after` branched off from it.
    pub(super) branched: bool,
}

impl Range {
    /// Reads `REV1..REV2`; `None` if the text is a path or no range.
    pub(super) fn read(text: &str) -> Option<Self> {
        if Path::new(text).exists() || text.starts_with("../") || text == ".." {
            return None;
        }
        let (before, rest) = text.split_once("..")?;
        let branched = rest.starts_with('.');
        let after = rest.strip_prefix('.').unwrap_or(rest);
        if after.starts_with(['.', '/']) || after.contains("..") || before.ends_with('/') {
            return None;
        }
        let or_head = |text: &str| if text.is_empty() { "HEAD" } else { text }.to_owned();
        let after = match (after.is_empty(), branched) {
            (true, false) => None,
            _ => Some(or_head(after)),
        };
        Some(Self { before: or_head(before), after, branched })
    }
}

/// Manifests of one side.
#[derive(Debug)]
pub(super) struct Texts {
    /// Named by their paths in the repository, sorted.
    pub(super) inputs: Vec<Input>,
}

/// A repository, seen from a directory in it.
pub(super) struct Repository {
    /// The directory's path in the repository: empty, or with a slash at its end.
    prefix: String,
    /// The work tree; `None` in a bare repository.
    root: Option<PathBuf>,
}

impl Repository {
    /// The repository of the current directory.
    pub(super) fn here() -> Result<Self, Failure> {
        ask(&["rev-parse", "--git-dir"]).map_err(|error| match error {
            Refusal::NoProgram => no_program(),
            Refusal::Said(said) => Failure::new("this directory is in no git repository")
                .hint(said)
                .hint("for two directories write podwall diff A B"),
        })?;
        let line = |arguments: &[&str]| ask(arguments).ok().map(|out| first_line(&out));
        let root = line(&["rev-parse", "--show-toplevel"]).filter(|root| !root.is_empty());
        let prefix = line(&["rev-parse", "--show-prefix"]).unwrap_or_default();
        Ok(Self { prefix, root: root.map(PathBuf::from) })
    }

    /// The commit or tree that a revision names.
    fn resolve(&self, revision: &str) -> Result<String, Failure> {
        let unknown = || {
            Failure::new(format!("\"{revision}\" is no revision of this repository"))
                .hint("git log --oneline shows revisions, git branch -a branches; a shallow clone")
                .hint("(the default in CI) has only the last one: fetch-depth: 0, git fetch --unshallow")
        };
        if revision.starts_with('-') {
            return Err(unknown());
        }
        let name = format!("{revision}^{{object}}");
        let out = ask(&["rev-parse", "--verify", "--quiet", "--end-of-options", &name]);
        out.map(|out| first_line(&out)).map_err(|_| unknown())
    }

    /// The revision that the later side of a range branched off from.
    pub(super) fn base(&self, range: &Range) -> Result<String, Failure> {
        let before = self.resolve(&range.before)?;
        let Some(after) = range.after.as_ref().filter(|_| range.branched) else {
            return Ok(before);
        };
        let after = self.resolve(after)?;
        ask(&["merge-base", &before, &after]).map(|out| first_line(&out)).map_err(|_| {
            Failure::new(format!(
                "{} and {} have no revision in common",
                range.before,
                range.after.as_deref().unwrap_or("HEAD")
            ))
            .hint("a shallow clone may lack it: git fetch --unshallow")
        })
    }

    /// The manifests of a revision.
    pub(super) fn at(&self, revision: &str, paths: &[PathBuf]) -> Result<Texts, Failure> {
        let object = self.resolve(revision)?;
        let wanted = self.wanted(paths)?;
        let out = ask(&["ls-tree", "-r", "-z", "--full-tree", &object]).map_err(|refusal| {
            Failure::new(format!("git cannot list the files of \"{revision}\""))
                .hint(refusal.said())
        })?;
        let mut found: Vec<(String, String)> = Vec::new();
        for entry in out.split(|byte| *byte == 0).filter(|entry| !entry.is_empty()) {
            let entry = String::from_utf8_lossy(entry);
            let Some((facts, path)) = entry.split_once('\t') else { continue };
            let mut facts = facts.split(' ');
            let (mode, id) = (facts.next().unwrap_or_default(), facts.nth(1));
            // Files, not links and not other repositories.
            if let (true, Some(id)) = (mode.starts_with("100") && wanted.takes(path), id) {
                found.push((path.to_owned(), id.to_owned()));
            }
        }
        let options = Options::default();
        if found.len() > options.max_files {
            return Err(too_many(options.max_files));
        }
        let mut objects = Objects::open()?;
        let mut left = options.max_total_bytes;
        let mut inputs = Vec::with_capacity(found.len());
        for (path, id) in found {
            let bytes = objects.read(&id, options.max_file_bytes.min(left), &path)?;
            left = left.saturating_sub(bytes.len() as u64);
            inputs.push(Input::Found { name: path.clone(), text: utf8(&path, bytes)? });
        }
        Ok(Texts { inputs })
    }

    /// The manifests as they are now: those that git knows, and new ones that it does not ignore.
    pub(super) fn now(&self, paths: &[PathBuf]) -> Result<Texts, Failure> {
        let Some(root) = &self.root else {
            return Err(Failure::new("this repository has no files of its own (it is bare)")
                .hint("name two revisions: REV1..REV2"));
        };
        let wanted = self.wanted(paths)?;
        let arguments =
            ["ls-files", "-z", "--full-name", "--cached", "--others", "--exclude-standard", "--"];
        let out = Command::new("git").args(arguments).arg(".").current_dir(root).output();
        let out = out.map_err(|_| no_program())?;
        if !out.status.success() {
            return Err(Failure::new("git cannot list the files").hint(said(&out.stderr)));
        }
        let list = out.stdout.split(|byte| *byte == 0).filter(|path| !path.is_empty());
        let mut found: Vec<String> =
            list.map(|path| String::from_utf8_lossy(path).into_owned()).collect();
        found.retain(|path| wanted.takes(path));
        found.sort_unstable();
        found.dedup();
        let options = Options::default();
        if found.len() > options.max_files {
            return Err(too_many(options.max_files));
        }
        let mut left = options.max_total_bytes;
        let mut inputs = Vec::with_capacity(found.len());
        for path in found {
            let file = root.join(&path);
            match std::fs::symlink_metadata(&file) {
                Ok(metadata) if metadata.is_file() => {}
                _ => continue, // deleted and not yet committed, or a link as in a revision
            }
            let most = options.max_file_bytes.min(left);
            let mut bytes = Vec::new();
            std::fs::File::open(&file)
                .and_then(|file| file.take(most + 1).read_to_end(&mut bytes))
                .map_err(|error| Failure::new(format!("cannot read {path}: {error}")))?;
            if bytes.len() as u64 > most {
                return Err(too_large(&path));
            }
            left = left.saturating_sub(bytes.len() as u64);
            inputs.push(Input::Found { name: path.clone(), text: utf8(&path, bytes)? });
        }
        Ok(Texts { inputs })
    }

    fn wanted(&self, paths: &[PathBuf]) -> Result<Wanted, Failure> {
        let here = [PathBuf::from(".")];
        let paths = if paths.is_empty() { &here[..] } else { paths };
        let of = |path: &PathBuf| {
            self.in_repository(path).ok_or_else(|| {
                Failure::new(format!("{} lies outside of the repository", path.display()))
                    .hint("-f names files and directories of the repository")
            })
        };
        Ok(Wanted(paths.iter().map(of).collect::<Result<_, _>>()?))
    }

    /// A path as the repository has it, without a slash at its end; empty for all of it.
    fn in_repository(&self, path: &Path) -> Option<String> {
        let from_root = match &self.root {
            Some(root) if path.is_absolute() => path.strip_prefix(root).ok()?.to_path_buf(),
            _ if path.is_absolute() => return None,
            _ => Path::new(&self.prefix).join(path),
        };
        let mut parts: Vec<&OsStr> = Vec::new();
        for part in from_root.components() {
            match part {
                Component::Normal(name) => parts.push(name),
                Component::ParentDir => drop(parts.pop()?),
                Component::CurDir => {}
                Component::RootDir | Component::Prefix(_) => return None,
            }
        }
        let parts: Vec<String> =
            parts.into_iter().map(|part| part.to_string_lossy().into_owned()).collect();
        Some(parts.join("/"))
    }
}

/// Which files of the repository are asked for.
struct Wanted(Vec<String>);

impl Wanted {
    /// A file that is named itself is taken, whatever it is called; of a directory manifests, and
    /// nothing whose name starts with a dot.
    fn takes(&self, path: &str) -> bool {
        self.0.iter().any(|wanted| {
            if wanted == path {
                return true;
            }
            let below = match wanted.is_empty() {
                true => Some(path),
                false => path.strip_prefix(wanted.as_str()).and_then(|rest| rest.strip_prefix('/')),
            };
            let Some(below) = below else { return false };
            let ending = Path::new(below).extension().map(OsStr::to_ascii_lowercase);
            let manifest =
                ending.is_some_and(|its| ["yaml", "yml", "json"].iter().any(|e| its == *e));
            manifest && !below.split('/').any(|part| part.starts_with('.'))
        })
    }
}

/// `git cat-file --batch`: objects by their ids.
struct Objects {
    child: Child,
}

impl Objects {
    fn open() -> Result<Self, Failure> {
        let child = git(&["cat-file", "--batch"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|_| no_program())?;
        Ok(Self { child })
    }

    fn read(&mut self, id: &str, most: u64, path: &str) -> Result<Vec<u8>, Failure> {
        let broken = || Failure::new(format!("git cannot read {path} (object {id})"));
        let (Some(stdin), Some(stdout)) = (&mut self.child.stdin, &mut self.child.stdout) else {
            return Err(broken());
        };
        writeln!(stdin, "{id}").and_then(|()| stdin.flush()).map_err(|_| broken())?;
        // Its answer is read to the last byte, so nothing stays behind in a buffer.
        let mut out = BufReader::with_capacity(1, stdout);
        let mut head = String::new();
        out.read_line(&mut head).map_err(|_| broken())?;
        let size = head.trim_end().rsplit(' ').next().and_then(|size| size.parse::<u64>().ok());
        let size = size.filter(|_| head.contains(" blob ")).ok_or_else(broken)?;
        if size > most {
            return Err(too_large(path));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).map_err(|_| broken())?);
        out.by_ref().take(size).read_to_end(&mut bytes).map_err(|_| broken())?;
        let mut end = [0];
        out.read_exact(&mut end).map_err(|_| broken())?;
        if bytes.len() as u64 == size { Ok(bytes) } else { Err(broken()) }
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        drop(self.child.stdin.take()); // it ends when nobody asks any more
        let _ = self.child.wait();
    }
}

/// Why git did not answer.
enum Refusal {
    NoProgram,
    Said(String),
}

impl Refusal {
    fn said(self) -> String {
        match self {
            Self::NoProgram => "there is no git program".to_owned(),
            Self::Said(text) => text,
        }
    }
}

fn git(arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    // Only questions: no locks, and nobody is asked for a password.
    command.args(arguments).env("GIT_OPTIONAL_LOCKS", "0").env("GIT_TERMINAL_PROMPT", "0");
    command
}

fn ask(arguments: &[&str]) -> Result<Vec<u8>, Refusal> {
    let out = git(arguments).stdin(Stdio::null()).output().map_err(|_| Refusal::NoProgram)?;
    if out.status.success() { Ok(out.stdout) } else { Err(Refusal::Said(said(&out.stderr))) }
}

fn said(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    text.lines().next().unwrap_or("it says nothing").trim_start_matches("fatal: ").to_owned()
}

fn first_line(out: &[u8]) -> String {
    String::from_utf8_lossy(out).lines().next().unwrap_or_default().to_owned()
}

fn no_program() -> Failure {
    Failure::new("revisions are read with the git program, and there is none on PATH")
        .hint("for two directories write podwall diff A B")
}

fn too_many(most: usize) -> Failure {
    Failure::new(format!("more than {most} manifests")).hint("-f names a part of the repository")
}

fn too_large(path: &str) -> Failure {
    Failure::new(format!("{path} is too large, or all files together are"))
        .hint("-f names a part of the repository")
}

fn utf8(path: &str, bytes: Vec<u8>) -> Result<String, Failure> {
    String::from_utf8(bytes).map_err(|_| Failure::new(format!("{path} is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(before: &str, after: Option<&str>, branched: bool) -> Option<Range> {
        Some(Range { before: before.into(), after: after.map(Into::into), branched })
    }

    #[test]
    fn ranges_are_read_as_git_reads_them_and_paths_are_none() {
        assert_eq!(Range::read("main..HEAD"), range("main", Some("HEAD"), false));
        assert_eq!(Range::read("v1.2.."), range("v1.2", None, false));
        assert_eq!(Range::read("..feature"), range("HEAD", Some("feature"), false));
        assert_eq!(Range::read("main...feature/x"), range("main", Some("feature/x"), true));
        assert_eq!(Range::read("main..."), range("main", Some("HEAD"), true));
        for path in ["../old", "old/../new", "..", "old", "a/..", "src", "./../x"] {
            assert_eq!(Range::read(path), None, "{path}");
        }
    }

    #[test]
    fn of_a_directory_manifests_are_taken_and_hidden_files_are_not() {
        let wanted = Wanted(vec!["k8s".into(), "one.txt".into()]);
        for (path, taken) in [
            ("k8s/a.yaml", true),
            ("k8s/deep/b.YML", true),
            ("k8s/c.json", true),
            ("one.txt", true),
            ("k8s/README.md", false),
            ("k8s/.hidden/a.yaml", false),
            ("k8s2/a.yaml", false),
            ("a.yaml", false),
        ] {
            assert_eq!(wanted.takes(path), taken, "{path}");
        }
        assert!(Wanted(vec![String::new()]).takes("deep/a.yaml"));
        assert!(!Wanted(vec![String::new()]).takes(".github/workflows/ci.yaml"));
    }

    #[test]
    fn paths_are_those_of_the_repository_wherever_one_stands() {
        let here = Repository { prefix: "deploy/".into(), root: Some("/r".into()) };
        for (path, wanted) in [
            (".", Some("deploy")),
            ("a.yaml", Some("deploy/a.yaml")),
            ("..", Some("")),
            ("../x/./y/", Some("x/y")),
            ("../..", None),
            ("/r/z", Some("z")),
            ("/elsewhere", None),
        ] {
            assert_eq!(here.in_repository(Path::new(path)).as_deref(), wanted, "{path}");
        }
    }
}
