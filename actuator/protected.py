"""The protected domains and where each should run: the configuration's word at first, then the journal's."""

from actuator.config import ConfigError, Settings
from actuator.model import Authority, DomainRecord, HostRecord
from actuator.ports import Journal


class Protected:
    """Records of the domains that the configuration names, and of no others."""

    def __init__(self, settings: Settings, journal: Journal) -> None:
        self._settings = settings
        self._journal = journal

    def record(self, domain: str) -> DomainRecord:
        """The domain's record; version 0 when the journal has none yet.

        Raises:
            JournalError: it cannot be read.
        """
        return self._journal.record(domain) or self._initial(domain)

    def records(self) -> tuple[DomainRecord, ...]:
        """The record of every protected domain.

        Raises:
            JournalError: they cannot be read.
        """
        stored = {record.domain: record for record in self._journal.records()}
        return tuple(stored.get(domain) or self._initial(domain) for domain in self._settings.domains)

    def host(self, host: str) -> HostRecord:
        """A host's record; version 0 when the journal has none yet. The host "" stands for all.

        Raises:
            JournalError: it cannot be read.
        """
        return next((it for it in self.host_records() if it.host == host), HostRecord(host))

    def host_records(self) -> tuple[HostRecord, ...]:
        """The record of every configured host, and before them that of the host "".

        Raises:
            JournalError: they cannot be read.
        """
        stored = {it.host: it for it in self._journal.hosts()}
        return tuple(stored.get(host) or HostRecord(host) for host in ("", *self._settings.hosts))

    def authorities(self) -> tuple[Authority, ...]:
        """Of every DRBD resource that is arbitrated.

        Raises:
            JournalError: they cannot be read.
        """
        return tuple(self._journal.authorities().values())

    def hosts(self, record: DomainRecord) -> tuple[str, ...]:
        """Every host where the domain may run, the one where it should run first."""
        return tuple(dict.fromkeys((record.host, *self._settings.hosts_of(record.domain))))

    def check(self) -> None:
        """Journal and configuration must fit.

        Raises:
            ConfigError: the journal names hosts that the configuration does not know.
            JournalError: it cannot be read.
        """
        problems = tuple(
            f"the journal says that {record.domain} should run on {record.host}, which is not in hosts"
            f" ({', '.join(sorted(self._settings.hosts))}): add it there"
            for record in self.records()
            if record.host not in self._settings.hosts
        )
        if problems:
            raise ConfigError(problems)

    def _initial(self, domain: str) -> DomainRecord:
        return DomainRecord(domain, version=0, host=self._settings.domains[domain].host)
