"""Campaigns: applying their files, issuing their coupons ahead; and the files that we ship."""

from __future__ import annotations

from deploy.campaigns.applying import ApplyReport, apply
from deploy.campaigns.issuing import issue
from workers.domain.campaign_faults import CampaignFileError
from workers.store.issuing import IssuingError

__all__ = ["ApplyReport", "CampaignFileError", "IssuingError", "apply", "issue"]
