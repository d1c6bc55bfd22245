//! Adding, finding and removing files of a tree.

use std::collections::BTreeMap;

use super::content::Content;
use super::{Device, Inode, InodeId, Kind, Name, OriginId, Tree, TreeError, components, display_path};

/// Owner, mode and time for a new inode; `Meta::default()` is 0644 root:root at time 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The twelve permission bits.
    pub mode: u16,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Seconds since 1970-01-01 UTC.
    pub mtime: i64,
}

impl Default for Meta {
    fn default() -> Meta {
        Meta { mode: 0o644, uid: 0, gid: 0, mtime: 0 }
    }
}

impl Meta {
    /// root:root at time 0 with this mode.
    pub fn mode(mode: u16) -> Meta {
        Meta { mode, ..Meta::default() }
    }
}

/// More symbolic links than this on one path are a loop, as in the kernel.
const MAX_LINKS: usize = 40;

impl Default for Tree {
    fn default() -> Tree {
        Tree::new()
    }
}

impl Tree {
    /// The root directory.
    pub const ROOT: InodeId = InodeId(0);

    /// A tree of one empty root directory, 0755 root:root.
    pub fn new() -> Tree {
        let mut tree = Tree { inodes: Vec::new(), origins: vec!["liveiso".to_string()] };
        tree.push_inode(Kind::Directory(BTreeMap::new()), Meta::mode(0o755), OriginId(0));
        tree.inodes[0].links = 1;
        tree
    }

    /// Names a source of files for messages; the id goes into inodes added with it.
    pub fn add_origin(&mut self, origin: impl Into<String>) -> OriginId {
        let origin = origin.into();
        if let Some(known) = self.origins.iter().rposition(|o| *o == origin) {
            return OriginId(known as u32);
        }
        self.origins.push(origin);
        OriginId(self.origins.len() as u32 - 1)
    }

    /// The text of an origin.
    pub fn origin(&self, id: OriginId) -> &str {
        &self.origins[id.0 as usize]
    }

    /// One inode.
    pub fn inode(&self, id: InodeId) -> &Inode {
        &self.inodes[id.index()]
    }

    /// One inode, to change owner, mode, time, xattrs or content in place.
    pub fn inode_mut(&mut self, id: InodeId) -> &mut Inode {
        &mut self.inodes[id.index()]
    }

    /// Size of the inode table, removed inodes included: the length of side tables.
    pub fn inode_count(&self) -> usize {
        self.inodes.len()
    }

    /// Adds an inode without a name; `link` gives it one.
    pub(super) fn push_inode(&mut self, kind: Kind, meta: Meta, origin: OriginId) -> InodeId {
        let Meta { mode, uid, gid, mtime } = meta;
        self.inodes.push(Inode {
            mode: mode & 0o7777,
            uid,
            gid,
            mtime,
            xattrs: BTreeMap::new(),
            kind,
            links: 0,
            origin,
        });
        InodeId(self.inodes.len() as u32 - 1)
    }

    /// The entries of a directory, or `None` for other types.
    pub fn entries(&self, id: InodeId) -> Option<&BTreeMap<Name, InodeId>> {
        match &self.inode(id).kind {
            Kind::Directory(entries) => Some(entries),
            _ => None,
        }
    }

    pub(super) fn entries_mut(&mut self, id: InodeId) -> Option<&mut BTreeMap<Name, InodeId>> {
        match &mut self.inodes[id.index()].kind {
            Kind::Directory(entries) => Some(entries),
            _ => None,
        }
    }

    /// The inode at `path`, following no symbolic link at all.
    pub fn get(&self, path: &[u8]) -> Option<InodeId> {
        let mut id = Tree::ROOT;
        for name in components(path).ok()? {
            id = *self.entries(id)?.get(name.as_bytes())?;
        }
        Some(id)
    }

    /// The inode at `path`, following symbolic links inside the tree as the
    /// kernel would after `chroot` (the last component too).
    ///
    /// # Errors
    /// Missing components, links that lead nowhere and link loops.
    pub fn resolve(&self, path: &[u8]) -> Result<InodeId, TreeError> {
        let mut budget = MAX_LINKS;
        let names = components(path).map_err(TreeError::Name)?;
        self.resolve_from(&mut vec![Tree::ROOT], &names, &mut budget).map_err(|e| match e {
            TreeError::Missing(_) => TreeError::Missing(display_path(path)),
            TreeError::LinkLoop(_) => TreeError::LinkLoop(display_path(path)),
            e => e,
        })
    }

    /// `stack` holds the directories from the root to the current one, so `..` in links works.
    fn resolve_from(
        &self,
        stack: &mut Vec<InodeId>,
        names: &[Name],
        budget: &mut usize,
    ) -> Result<InodeId, TreeError> {
        for name in names {
            let here = *stack.last().expect("the root is never popped");
            let missing = || TreeError::Missing(display_path(name.as_bytes()));
            let next = *self.entries(here).ok_or_else(missing)?.get(name.as_bytes()).ok_or_else(missing)?;
            self.enter(stack, next, budget)?;
        }
        Ok(*stack.last().expect("the root is never popped"))
    }

    /// Pushes `next`, or what it points to when it is a symbolic link.
    pub(super) fn enter(
        &self,
        stack: &mut Vec<InodeId>,
        next: InodeId,
        budget: &mut usize,
    ) -> Result<(), TreeError> {
        let Kind::Symlink(target) = &self.inode(next).kind else {
            stack.push(next);
            return Ok(());
        };
        *budget = budget.checked_sub(1).ok_or_else(|| TreeError::LinkLoop(display_path(target)))?;
        if target.starts_with(b"/") {
            stack.truncate(1);
        }
        for part in target.split(|&b| b == b'/') {
            match part {
                b"" | b"." => {}
                b".." => {
                    if stack.len() > 1 {
                        stack.pop();
                    }
                }
                part => {
                    let name = Name::new(part).map_err(TreeError::Name)?;
                    self.resolve_from(stack, &[name], budget).map_err(|e| match e {
                        TreeError::Missing(_) => TreeError::DanglingLink {
                            target: display_path(target),
                            origin: self.origin(self.inode(next).origin).to_string(),
                        },
                        e => e,
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Makes sure the directories of `names` exist, following directory links
    /// inside the tree (merged /usr); new ones are 0755 root:root with `mtime`.
    pub(super) fn ensure_directories(
        &mut self,
        names: &[Name],
        mtime: i64,
        origin: OriginId,
    ) -> Result<InodeId, TreeError> {
        let mut stack = vec![Tree::ROOT];
        let mut budget = MAX_LINKS;
        for name in names {
            let here = *stack.last().expect("the root is never popped");
            let found = self.entries(here).and_then(|e| e.get(name.as_bytes())).copied();
            match found {
                Some(next) => self.enter(&mut stack, next, &mut budget)?,
                None => {
                    let new = self.push_inode(
                        Kind::Directory(BTreeMap::new()),
                        Meta { mtime, ..Meta::mode(0o755) },
                        origin,
                    );
                    self.attach(here, name.clone(), new);
                    stack.push(new);
                }
            }
            let reached = *stack.last().expect("the root is never popped");
            if self.entries(reached).is_none() {
                return Err(TreeError::NotADirectory {
                    path: display_path(name.as_bytes()),
                    origin: self.origin(self.inode(reached).origin).to_string(),
                });
            }
        }
        Ok(*stack.last().expect("the root is never popped"))
    }

    /// Gives `child` a name in a directory, dropping what had that name before.
    pub(super) fn attach(&mut self, directory: InodeId, name: Name, child: InodeId) {
        self.inodes[child.index()].links += 1;
        let old = self.entries_mut(directory).expect("attach wants a directory").insert(name, child);
        if let Some(old) = old {
            self.release(old);
        }
    }

    /// One name less; a directory that lost its name loses its children too.
    fn release(&mut self, id: InodeId) {
        let mut pending = vec![id];
        while let Some(id) = pending.pop() {
            let inode = &mut self.inodes[id.index()];
            inode.links -= 1;
            if inode.links == 0
                && let Kind::Directory(entries) = &mut inode.kind
            {
                pending.extend(std::mem::take(entries).into_values());
            }
        }
    }

    /// Adds a file of any type at `path`. Missing parents are made (0755,
    /// root:root, same mtime). A directory over an existing directory takes the
    /// new owner and mode and keeps its entries; a non-directory replaces a
    /// non-directory.
    ///
    /// # Errors
    /// A bad name, a parent that is not a directory, a directory against a non-directory.
    pub fn insert(
        &mut self,
        path: &[u8],
        kind: Kind,
        meta: Meta,
        origin: OriginId,
    ) -> Result<InodeId, TreeError> {
        let names = components(path).map_err(TreeError::Name)?;
        let Some((last, parents)) = names.split_last() else {
            return self.update_root(&kind, meta, origin);
        };
        let parent = self.ensure_directories(parents, meta.mtime, origin)?;
        if let Some(&existing) = self.entries(parent).and_then(|e| e.get(last.as_bytes()))
            && let Some(kept) = self.reconcile(path, existing, &kind, meta, origin)?
        {
            return Ok(kept);
        }
        let id = self.push_inode(kind, meta, origin);
        self.attach(parent, last.clone(), id);
        Ok(id)
    }

    fn update_root(&mut self, kind: &Kind, meta: Meta, origin: OriginId) -> Result<InodeId, TreeError> {
        match self.reconcile(b"/", Tree::ROOT, kind, meta, origin)? {
            Some(id) => Ok(id),
            None => {
                unreachable!("the root is a directory and reconcile keeps or refuses directories")
            }
        }
    }

    /// What happens when `path` exists: `Some` keeps the existing inode, `None` replaces it.
    fn reconcile(
        &mut self,
        path: &[u8],
        existing: InodeId,
        kind: &Kind,
        meta: Meta,
        origin: OriginId,
    ) -> Result<Option<InodeId>, TreeError> {
        // A package's directory over a link to a directory means the directory
        // behind the link: that is how merged /usr survives unpacking.
        let target = match (&self.inode(existing).kind, kind) {
            (Kind::Symlink(_), Kind::Directory(_)) => {
                let behind = self.resolve(path)?;
                if self.entries(behind).is_some() {
                    return Ok(Some(behind));
                }
                existing
            }
            _ => existing,
        };
        let old_is_directory = self.entries(target).is_some();
        let new_is_directory = matches!(kind, Kind::Directory(_));
        match (old_is_directory, new_is_directory) {
            (true, true) => {
                let inode = self.inode_mut(target);
                (inode.mode, inode.uid, inode.gid, inode.mtime) =
                    (meta.mode & 0o7777, meta.uid, meta.gid, meta.mtime);
                inode.origin = origin;
                Ok(Some(target))
            }
            (false, false) => Ok(None),
            _ => Err(TreeError::Conflict {
                path: display_path(path),
                existing: self.inode(target).kind.word().to_string(),
                existing_origin: self.origin(self.inode(target).origin).to_string(),
                new: kind.word().to_string(),
                new_origin: self.origin(origin).to_string(),
            }),
        }
    }

    /// Adds a regular file.
    ///
    /// # Errors
    /// As [`Tree::insert`].
    pub fn add_file(
        &mut self,
        path: &[u8],
        content: Content,
        meta: Meta,
        origin: OriginId,
    ) -> Result<InodeId, TreeError> {
        self.insert(path, Kind::File(content), meta, origin)
    }

    /// Adds a directory, or updates the owner and mode of an existing one.
    ///
    /// # Errors
    /// As [`Tree::insert`].
    pub fn add_directory(&mut self, path: &[u8], meta: Meta, origin: OriginId) -> Result<InodeId, TreeError> {
        self.insert(path, Kind::Directory(BTreeMap::new()), meta, origin)
    }

    /// Adds a symbolic link (mode 0777, as the kernel shows them).
    ///
    /// # Errors
    /// As [`Tree::insert`].
    pub fn add_symlink(
        &mut self,
        path: &[u8],
        target: &[u8],
        meta: Meta,
        origin: OriginId,
    ) -> Result<InodeId, TreeError> {
        self.insert(path, Kind::Symlink(target.to_vec()), Meta { mode: 0o777, ..meta }, origin)
    }

    /// Adds a character device.
    ///
    /// # Errors
    /// As [`Tree::insert`].
    pub fn add_char_device(
        &mut self,
        path: &[u8],
        device: Device,
        meta: Meta,
        origin: OriginId,
    ) -> Result<InodeId, TreeError> {
        self.insert(path, Kind::CharDevice(device), meta, origin)
    }

    /// Gives the file at `existing` a second name.
    ///
    /// # Errors
    /// When `existing` is missing or a directory, and as [`Tree::insert`].
    pub fn add_hard_link(
        &mut self,
        path: &[u8],
        existing: &[u8],
        origin: OriginId,
    ) -> Result<InodeId, TreeError> {
        let names = components(existing).map_err(TreeError::Name)?;
        let missing = || TreeError::Missing(display_path(existing));
        let (last, parents) = names.split_last().ok_or_else(missing)?;
        let mut budget = MAX_LINKS;
        let directory = self.resolve_from(&mut vec![Tree::ROOT], parents, &mut budget)?;
        let target =
            *self.entries(directory).ok_or_else(missing)?.get(last.as_bytes()).ok_or_else(missing)?;
        if self.entries(target).is_some() {
            return Err(missing());
        }
        let names = components(path).map_err(TreeError::Name)?;
        let Some((last, parents)) = names.split_last() else {
            return Err(TreeError::Missing("/".to_string()));
        };
        let mtime = self.inode(target).mtime;
        let parent = self.ensure_directories(parents, mtime, origin)?;
        match self.entries(parent).and_then(|e| e.get(last.as_bytes())).copied() {
            Some(same) if same == target => Ok(target),
            Some(other) if self.entries(other).is_some() => Err(TreeError::Conflict {
                path: display_path(path),
                existing: "dir".to_string(),
                existing_origin: self.origin(self.inode(other).origin).to_string(),
                new: "link".to_string(),
                new_origin: self.origin(origin).to_string(),
            }),
            _ => {
                self.attach(parent, last.clone(), target);
                Ok(target)
            }
        }
    }

    /// Removes a name, with everything below it. Returns whether it existed.
    pub fn remove(&mut self, path: &[u8]) -> bool {
        let Ok(names) = components(path) else {
            return false;
        };
        let Some((last, parents)) = names.split_last() else {
            return false;
        };
        let mut directory = Tree::ROOT;
        for name in parents {
            match self.entries(directory).and_then(|e| e.get(name.as_bytes())) {
                Some(&next) => directory = next,
                None => return false,
            }
        }
        let Some(entries) = self.entries_mut(directory) else {
            return false;
        };
        match entries.remove(last.as_bytes()) {
            Some(old) => {
                self.release(old);
                true
            }
            None => false,
        }
    }

    /// Sets every later modification time to `latest` (seconds since 1970 UTC).
    pub fn clamp_mtimes(&mut self, latest: i64) {
        for inode in &mut self.inodes {
            inode.mtime = inode.mtime.min(latest);
        }
    }
}
