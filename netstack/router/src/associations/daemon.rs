//! What a key daemon does: add, replace, remove. A rekey without loss is to add the new inbound association, then to
//! replace the outbound one; replaced inbound ones go on decrypting for their tunnel's overlap.

use super::{IpsecError, IpsecEventKind, Random};
use crate::Router;
use config::AssociationDirection;

impl Router {
    /// Adds an association, which was validated; with `replace`, one of its name that a daemon added before gives way.
    ///
    /// # Errors
    /// [`IpsecError`]; nothing has changed then.
    pub fn add_association(
        &mut self,
        association: &config::Association,
        replace: bool,
        random: Random<'_>,
        now_ns: u64,
    ) -> Result<(), IpsecError> {
        let name = || association.name.clone();
        match self.ipsec.associations.get(&association.name) {
            Some(known) if !known.is_dynamic => return Err(IpsecError::Configured(name())),
            Some(_) if !replace => return Err(IpsecError::Exists(name())),
            None if replace => return Err(IpsecError::NoAssociation(name())),
            _ => {}
        }
        let order = self.ipsec.next_order;
        self.install(association, true, order, random, now_ns)?;
        self.ipsec.next_order += 1;
        self.switch_outbound(&association.tunnel);
        self.refresh_tunnel_mtu(&association.tunnel);
        self.publish_ipsec();
        self.poll_ipsec_soon(now_ns);
        Ok(())
    }

    /// Removes an association that a daemon added. An inbound one that has a successor goes on decrypting for the
    /// tunnel's overlap.
    ///
    /// # Errors
    /// [`IpsecError::NoAssociation`] and [`IpsecError::Configured`].
    pub fn remove_association(&mut self, name: &str, now_ns: u64) -> Result<(), IpsecError> {
        match self.ipsec.associations.get(name) {
            None => return Err(IpsecError::NoAssociation(name.into())),
            Some(known) if !known.is_dynamic => return Err(IpsecError::Configured(name.into())),
            Some(_) => {}
        }
        let Some(known) = self.ipsec.associations.remove(name) else { return Ok(()) };
        let tunnel = known.settings.tunnel.clone();
        let mut successors = self.ipsec.associations.of_tunnel(&tunnel, AssociationDirection::In);
        let is_succeeded = successors.next().is_some();
        drop(successors);
        self.ipsec.tell(&known.settings, IpsecEventKind::Removed, now_ns);
        self.retire(known, is_succeeded, now_ns);
        self.switch_outbound(&tunnel);
        self.publish_ipsec();
        self.poll_ipsec_soon(now_ns);
        Ok(())
    }
}
