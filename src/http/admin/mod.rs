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

/// The operations, in the order in which they are listed to people.
pub(super) type Operations = (
    users::UsersApi,
    service_accounts::ServiceAccountsApi,
    api_keys::ApiKeysApi,
    projects::ProjectsApi,
    provider_keys::ProviderKeysApi,
    grants::GrantsApi,
    audit::AuditApi,
    signing_keys::SigningKeysApi,
);

/// All of them.
pub(super) const OPERATIONS: Operations = (
    users::UsersApi,
    service_accounts::ServiceAccountsApi,
    api_keys::ApiKeysApi,
    projects::ProjectsApi,
    provider_keys::ProviderKeysApi,
    grants::GrantsApi,
    audit::AuditApi,
    signing_keys::SigningKeysApi,
);
