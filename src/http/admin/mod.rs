//! `/admin`: what a program with the right scope can do, which is what the command line can.

mod api_keys;
mod audit;
mod grants;
mod principals;
mod projects;
mod provider_keys;
mod service_accounts;
mod signing_keys;
mod users;

/// The operations, in the order in which a desk is furnished: what there is to hand out, to whom, and what became of it.
pub(super) type Operations = (
    projects::ProjectsApi,
    provider_keys::ProviderKeysApi,
    users::UsersApi,
    service_accounts::ServiceAccountsApi,
    api_keys::ApiKeysApi,
    grants::GrantsApi,
    audit::AuditApi,
    signing_keys::SigningKeysApi,
);

/// All of them.
pub(super) const OPERATIONS: Operations = (
    projects::ProjectsApi,
    provider_keys::ProviderKeysApi,
    users::UsersApi,
    service_accounts::ServiceAccountsApi,
    api_keys::ApiKeysApi,
    grants::GrantsApi,
    audit::AuditApi,
    signing_keys::SigningKeysApi,
);
