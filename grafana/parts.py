"""What the dashboards are made of: queries, panels, variables and links that are alike everywhere.

Colours are names of Grafana's palette, which has a shade of each for either theme.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import prometheus, statetimeline, timeseries
from grafana_foundation_sdk.builders import stat as stats
from grafana_foundation_sdk.builders import table as tables
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DATASOURCE = dashboard.DataSourceRef("prometheus", "${datasource}")
GOOD, WARNING, BAD, NEUTRAL, ACTIVE, QUIET = "green", "orange", "red", "blue", "purple", "transparent"
WIDTH = 24
"""Of Grafana's grid."""

ALERTS_OF_HOSTS = 'alertname!="Watchdog",alertstate="firing",host=~"$host|"'
"""Some alerts are of no host."""


@dataclass(frozen=True)
class Query:
    """One query of a panel.

    Attributes:
        expression: PromQL, with Grafana's variables in it.
        legend: the name of each series, with labels as `{{label}}`.
        name: of the table's column; a table with several queries needs it.
    """

    expression: str
    legend: str = ""
    name: str = ""


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        label: the label, or for a query's values the query's `name` ("" with one query).
        title: above it.
        unit: of its values.
        texts: values that are shown as words in a colour.
        link: to which dashboard a value leads.
        width: in pixels; None: what is left.
    """

    label: str
    title: str
    unit: str = ""
    texts: Mapping[str, tuple[str, str]] | None = None
    steps: Sequence[tuple[float | None, str]] = ()
    link: str = ""
    width: int | None = None


class Link:
    """Where a value leads: its own name, or a label's, becomes the variable of another dashboard."""

    HOST = "/d/vmheal-host?var-host=${__value.raw}&${__url_time_range}&${datasource:queryparam}"
    VM = "/d/vmheal-vm?var-domain=${__value.raw}&${__url_time_range}&${datasource:queryparam}"
    RESOURCE = "/d/vmheal-drbd?var-name=${__value.raw}&${__url_time_range}&${datasource:queryparam}"


# ---- states ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """One state of a StateSet, and how it looks."""

    word: str
    colour: str
    text: str = ""


def numbered(metric: str, matchers: str, by: str, states: Sequence[State], label: str = "") -> str:
    """The current state of a StateSet as its number in `states`, from 1 on: one series each, not one a state.

    Grafana's state timeline draws a row for each series, and colours it by its value.
    """
    label = label or metric
    alternatives = (
        f'({metric}{{{matchers},{label}="{state.word}"}} == 1) * {number}'
        for number, state in enumerate(states, 1)
    )
    return f"max by ({by}) (\n  " + "\n  or ".join(alternatives) + "\n)"


def words(states: Sequence[State]) -> dict[str, tuple[str, str]]:
    """The texts and colours of what `numbered` gives."""
    return {str(number): (state.text or state.word, state.colour) for number, state in enumerate(states, 1)}


RUNS = "running|blocked"
"""libvirt's states of a domain that runs; Xen says blocked of one that waits for work."""

DOMAIN_STATES = (
    State("running", GOOD),
    State("blocked", GOOD, "running"),
    State("paused", WARNING),
    State("shutdown", WARNING, "shutting down"),
    State("shutoff", QUIET, "off"),
    State("crashed", BAD),
    State("pmsuspended", WARNING, "suspended"),
    State("nostate", WARNING, "no state"),
)
DISK_STATES = (
    State("UpToDate", GOOD),
    State("Consistent", WARNING),
    State("Outdated", WARNING),
    State("Inconsistent", WARNING),
    State("Attaching", WARNING),
    State("Negotiating", WARNING),
    State("Detaching", WARNING),
    State("Failed", BAD),
    State("Diskless", BAD),
    State("DUnknown", NEUTRAL, "not known"),
)
CONNECTION_STATES = (
    State("Connected", GOOD),
    State("Connecting", WARNING),
    State("StandAlone", BAD),
    State("Disconnecting", WARNING),
    State("Unconnected", WARNING),
    State("Timeout", WARNING),
    State("BrokenPipe", WARNING),
    State("NetworkFailure", WARNING),
    State("ProtocolError", BAD),
    State("TearDown", WARNING),
)
ROLES = (State("Primary", NEUTRAL), State("Secondary", GOOD))
YES_NO = {"1": ("yes", GOOD), "0": ("no", BAD)}
STANDS = {"1": ("yes", WARNING), "0": ("no", QUIET)}

# Columns of several tables.
HOST = Column("host", "host", link=Link.HOST)
VM = Column("domain", "VM", link=Link.VM)
RESOURCE = Column("resource", "resource", link=Link.RESOURCE)
CURRENT = Column("current", "current for the arbiter", texts=YES_NO)
SHOULD_RUN = Column(
    "expected", "should run here", texts={"1": ("yes", NEUTRAL), "0": ("may come here", "text")}
)


def mappings(texts: Mapping[str, tuple[str, str]]) -> list[dashboard.ValueMapping]:
    """Values that are shown as words."""
    options = {
        value: dashboard.ValueMappingResult(text=text, color=colour, index=index)
        for index, (value, (text, colour)) in enumerate(texts.items())
    }
    return [dashboard.ValueMap(options)]


def thresholds(steps: Sequence[tuple[float | None, str]]) -> builders.ThresholdsConfig:
    """From which value on which colour; the first value is None."""
    return (
        builders.ThresholdsConfig()
        .mode(dashboard.ThresholdsMode.ABSOLUTE)
        .steps([dashboard.Threshold(value, colour) for value, colour in steps])
    )


# ---- panels ----------------------------------------------------------------------------------------------


PanelBuilder: TypeAlias = stats.Panel | timeseries.Panel | statetimeline.Panel | tables.Panel


class Panels:
    """The panels of a dashboard, in order; they take their places from left to right, row by row."""

    def __init__(self) -> None:
        self._made: list[PanelBuilder | builders.Row] = []
        self._numbers = 0

    def row(self, title: str) -> None:
        """Begin a row with a headline."""
        self._made.append(builders.Row(title).id(self._number()))

    def stat(
        self,
        title: str,
        about: str,
        query: Query,
        *,
        unit: str = "none",
        steps: Sequence[tuple[float | None, str]] = ((None, NEUTRAL),),
        texts: Mapping[str, tuple[str, str]] | None = None,
        names: bool = False,
        nothing: str = "",
        span: int = 4,
        link: str = "",
    ) -> None:
        """One figure, large.

        Args:
            title: of the panel.
            about: what it means and what to do.
            query: with one series, or a few that are then shown beside each other.
            unit: of the figure.
            steps: colours.
            texts: values that are shown as words.
            names: show the series' names instead of their values.
            nothing: shown when there is no series.
            span: how many of the 24 columns it takes.
            link: to which dashboard a click leads.
        """
        mode = common.BigValueTextMode.NAME if names else common.BigValueTextMode.AUTO
        panel = (
            stats.Panel()
            .color_mode(common.BigValueColorMode.VALUE)
            .graph_mode(common.BigValueGraphMode.NONE)
            .text_mode(mode)
            .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]))
        )
        self._finish(panel, title, about, [query], unit, span, 4, instant=True)
        panel.thresholds(thresholds(steps)).mappings(mappings(texts or {}))
        panel.color_scheme(builders.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
        if nothing:
            panel.no_value(nothing)
        if link:
            panel.data_links([_data_link(link)])

    def graph(
        self,
        title: str,
        about: str,
        queries: Sequence[Query],
        *,
        unit: str,
        span: int = 12,
        height: int = 8,
        steps: Sequence[tuple[float | None, str]] = (),
        stacked: bool = False,
        least: float | None = 0,
        most: float | None = None,
        decimals: int | None = None,
    ) -> None:
        """Lines over time. `steps` draw limits, `least` and `most` bound the axis."""
        panel = (
            timeseries.Panel()
            .line_width(1)
            .fill_opacity(25 if stacked else 10)
            .show_points(common.VisibilityMode.NEVER)
            .legend(_legend(shown=True))
            .tooltip(_tooltip())
        )
        self._finish(panel, title, about, queries, unit, span, height, instant=False)
        if stacked:
            panel.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL))
        if least is not None:
            panel.min(least)
        if most is not None:
            panel.max(most)
        if decimals is not None:
            panel.decimals(decimals)
        if steps:
            panel.thresholds(thresholds(steps))
            style = common_builders.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED)
            panel.thresholds_style(style)

    def timeline(
        self,
        title: str,
        about: str,
        queries: Sequence[Query],
        texts: Mapping[str, tuple[str, str]],
        *,
        span: int = 24,
        height: int = 8,
    ) -> None:
        """A row for each series, coloured by its value, which `texts` says in words."""
        panel = (
            statetimeline.Panel()
            .show_value(common.VisibilityMode.AUTO)
            .merge_values(True)
            .row_height(0.8)
            .line_width(0)
            .fill_opacity(80)
            .legend(_legend(shown=False))
            .tooltip(_tooltip())
        )
        self._finish(panel, title, about, queries, "none", span, height, instant=False)
        panel.mappings(mappings(texts)).thresholds(thresholds([(None, NEUTRAL)]))
        panel.color_scheme(builders.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))

    def table(
        self,
        title: str,
        about: str,
        queries: Sequence[Query],
        columns: Sequence[Column],
        *,
        unit: str = "none",
        span: int = 24,
        height: int = 8,
        nothing: str = "",
        sort: str = "",
    ) -> None:
        """A row for each set of labels that the queries have in common, a column for each query.

        What is not one of the columns is not shown. `sort` names the title of the column to sort by,
        downwards when it begins with a minus.
        """
        panel = tables.Panel().show_header(True)
        self._finish(panel, title, about, queries, unit, span, height, instant=True)
        panel.thresholds(thresholds([(None, "text")]))
        for name, options in _transformations(queries, columns):
            panel.with_transformation(dashboard.DataTransformerConfig(name, options=options))
        for column in columns:
            if properties := list(_properties(column)):
                panel.override_by_name(column.title, properties)
        if nothing:
            panel.no_value(nothing)
        if sort:
            field = common_builders.TableSortByFieldState()
            panel.sort_by([field.display_name(sort.removeprefix("-")).desc(sort.startswith("-"))])

    def add_to(self, made: builders.Dashboard) -> None:
        """Give the dashboard all of them."""
        for it in self._made:
            if isinstance(it, builders.Row):
                made.with_row(it)
            else:
                made.with_panel(it)

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _finish(
        self,
        panel: PanelBuilder,
        title: str,
        about: str,
        queries: Sequence[Query],
        unit: str,
        span: int,
        height: int,
        *,
        instant: bool,
    ) -> None:
        panel.id(self._number()).title(title).description(about).datasource(DATASOURCE)
        panel.unit(unit).span(span).height(height)
        for ref, query in zip("ABCDEFGHIJ", queries, strict=False):
            target = prometheus.Dataquery().datasource(DATASOURCE).ref_id(ref).expr(query.expression)
            target.legend_format(query.legend or "__auto")
            if instant:
                target.instant()
            else:
                target.range()
            if isinstance(panel, tables.Panel):
                target.format(PromQueryFormat.TABLE)
            panel.with_target(target)
        self._made.append(panel)


def _legend(*, shown: bool) -> common_builders.VizLegendOptions:
    return (
        common_builders.VizLegendOptions()
        .display_mode(common.LegendDisplayMode.LIST)
        .placement(common.LegendPlacement.BOTTOM)
        .show_legend(shown)
    )


def _tooltip() -> common_builders.VizTooltipOptions:
    return (
        common_builders.VizTooltipOptions()
        .mode(common.TooltipDisplayMode.MULTI)
        .sort(common.SortOrder.DESCENDING)
    )


def _data_link(url: str) -> builders.DashboardLink:
    return builders.DashboardLink("Look at ${__value.text}").url(url)


def _transformations(
    queries: Sequence[Query], columns: Sequence[Column]
) -> Iterable[tuple[str, dict[str, object]]]:
    """Join the queries' rows by their labels, and name and order the columns."""
    several = len(queries) > 1
    if several:
        yield "merge", {}
    values = {
        query.name: f"Value #{ref}" if several else "Value"
        for ref, query in zip("ABCDEFGHIJ", queries, strict=False)
    }
    fields = {values.get(column.label, column.label): column.title for column in columns}
    yield (
        "filterFieldsByName",
        {"include": {"names": list(fields)}},
    )
    yield (
        "organize",
        {
            "excludeByName": {},
            "indexByName": {name: index for index, name in enumerate(fields)},
            "renameByName": fields,
        },
    )


def _properties(column: Column) -> Iterable[dashboard.DynamicConfigValue]:
    if column.unit:
        yield dashboard.DynamicConfigValue("unit", column.unit)
    if column.width:
        yield dashboard.DynamicConfigValue("custom.width", column.width)
    if column.texts:
        yield dashboard.DynamicConfigValue("mappings", mappings(column.texts))
    if column.steps:
        yield dashboard.DynamicConfigValue("thresholds", thresholds(column.steps).build())
    if column.texts or column.steps:
        yield dashboard.DynamicConfigValue("custom.cellOptions", {"type": "color-text"})
    if column.link:
        link = {"title": "Look at ${__value.text}", "url": column.link}
        yield dashboard.DynamicConfigValue("links", [link])


# ---- dashboards ------------------------------------------------------------------------------------------


def variable(
    name: str, label: str, values: str, *, several: bool = False, hidden: bool = False
) -> builders.QueryVariable:
    """A variable whose values are those of a label.

    Args:
        name: in queries.
        label: on the dashboard.
        values: Grafana's `label_values(...)`.
        several: more than one may be chosen; all are at first.
        hidden: it follows from the others.
    """
    made = (
        builders.QueryVariable(name)
        .label(label)
        .query(values)
        .datasource(DATASOURCE)
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.NATURAL_ASC)
        .multi(several)
        .include_all(several)
    )
    if several:
        made.all_value(".+").current(dashboard.VariableOption(text="All", value="$__all"))
    if hidden:
        made.hide(dashboard.VariableHide.HIDE_VARIABLE)
    return made


HOSTS = variable("host", "Host", "label_values(vmheal_domain_expected, host)", several=True)


def annotation(name: str, expression: str, title: str, text: str, colour: str) -> builders.AnnotationQuery:
    """Mark when the expression has series: from when to when, and what."""
    query = prometheus.Dataquery().expr(expression).ref_id("Anno").range().build()
    return _Annotation(name, title, text, query.to_json()).datasource(DATASOURCE).icon_color(colour)


class _AnnotationQuery(dashboard.AnnotationQuery):
    """The SDK knows no fields for the titles of Prometheus's annotations; Grafana has them beside the others."""

    def __init__(self, name: str, more: Mapping[str, object]) -> None:
        super().__init__(name=name)
        self._more = more

    def to_json(self) -> dict[str, object]:
        return super().to_json() | dict(self._more)


class _Annotation(builders.AnnotationQuery):
    def __init__(self, name: str, title: str, text: str, target: Mapping[str, object]) -> None:
        more = {"titleFormat": title, "textFormat": text, "step": "1s", "useValueForTime": False}
        self._internal = _AnnotationQuery(name, more | {"expr": target["expr"]})


def alerts_and_plans(host: str, domain: str, resource: str = "") -> list[builders.AnnotationQuery]:
    """The annotations that every dashboard has: failures that fire, and what is done about them.

    Args:
        host: what the label `host` must match; of a plan the host that it leaves or the one that it goes to.
        domain: what the label `domain` must match.
        resource: of which DRBD resource alerts are marked, too.
    """
    critical = 'alertname!="Watchdog",alertstate="firing",severity="critical"'
    alerts = [f'ALERTS{{{critical},host=~"{host}",domain=~"{domain}"}}']
    if resource:
        alerts.append(f'ALERTS{{{critical},name="{resource}"}}')
    plans = [f'vmheal_domain_plan_open{{{end}=~"{host}",domain=~"{domain}"}}' for end in ("host", "source")]
    return [
        annotation(
            "Alerts",
            f"max by (alertname, host, domain, name) ({' or '.join(alerts)})",
            "{{alertname}}",
            "{{domain}} {{name}} {{host}}" if resource else "{{domain}} {{host}}",
            BAD,
        ),
        annotation(
            "Plans",
            f"max by (verb, domain, host, source) ({' or '.join(plans)})",
            "{{verb}}",
            "{{domain}} to {{host}}",
            ACTIVE,
        ),
    ]


def board(
    uid: str,
    title: str,
    about: str,
    variables: Sequence[Builder[dashboard.VariableModel]],
    annotations: Sequence[builders.AnnotationQuery],
    panels: Panels,
    *,
    since: str = "now-1h",
) -> dashboard.Dashboard:
    """A dashboard with what all of them have."""
    made = (
        builders.Dashboard(title)
        .uid(uid)
        .description(about)
        .tags(["vmheal"])
        .readonly()
        .timezone("browser")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .refresh("10s")
        .time(since, "now")
        .link(
            builders.DashboardLink("vmheal")
            .type(dashboard.DashboardLinkType.DASHBOARDS)
            .tags(["vmheal"])
            .as_dropdown(False)
            .keep_time(True)
            .include_vars(True)
        )
        .with_variable(builders.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for it in variables:
        made.with_variable(it)
    for each in annotations:
        made.annotation(each)
    panels.add_to(made)
    return made.build()


def to_json(made: dashboard.Dashboard) -> str:
    """The dashboard as its file has it."""
    return json.dumps(made, cls=JSONEncoder, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
